/** Numbers on the cells of a picture, row by row. */

export interface MapSize {
  readonly height: number;
  readonly width: number;
}

export const sumOf = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0);

/** In standard deviations from the mean. */
export function standard(values: Float64Array): Float64Array {
  const mean = sumOf(values) / values.length;
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
  return values.map((value) => (value - mean) / (deviation + 1e-9));
}

/** Mean over a square of an eighth of the shorter side to each side of a cell. */
export function smoothed(map: Float64Array, { height, width }: MapSize): Float64Array {
  const radius = Math.max(1, Math.round(Math.min(height, width) / 8));
  const along = (
    values: Float64Array,
    count: number,
    step: number,
    start: (line: number) => number,
    lines: number,
  ) => {
    const result = new Float64Array(values.length);
    for (let line = 0; line < lines; line++) {
      for (let i = 0; i < count; i++) {
        const [from, to] = [Math.max(0, i - radius), Math.min(count - 1, i + radius)];
        let sum = 0;
        for (let j = from; j <= to; j++) sum += values[start(line) + j * step]!;
        result[start(line) + i * step] = sum / (to - from + 1);
      }
    }
    return result;
  };
  const rows = along(map, width, 1, (line) => line * width, height);
  return along(rows, height, width, (line) => line, width);
}

/** A map at another size, bilinear. */
export function enlarged(map: ArrayLike<number>, from: MapSize, to: MapSize): Float64Array {
  const result = new Float64Array(to.height * to.width);
  const place = (i: number, small: number, large: number): readonly [number, number, number] => {
    const at = Math.min(Math.max(((i + 0.5) * small) / large - 0.5, 0), small - 1);
    const low = Math.floor(at);
    return [low, Math.min(low + 1, small - 1), at - low];
  };
  for (let y = 0; y < to.height; y++) {
    const [top, bottom, v] = place(y, from.height, to.height);
    for (let x = 0; x < to.width; x++) {
      const [left, right, u] = place(x, from.width, to.width);
      const across = (row: number): number =>
        map[row * from.width + left]! * (1 - u) + map[row * from.width + right]! * u;
      result[y * to.width + x] = across(top) * (1 - v) + across(bottom) * v;
    }
  }
  return result;
}
