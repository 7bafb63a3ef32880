/**
 * Filled figures without antialiasing, on a grid of pixels, and the two ways of resizing that shapeland needs. Corner
 * coordinates are cut to integers and belong to the figure, as in Pillow's ImageDraw, so that templates agree with it.
 */

/** One byte a pixel. */
export interface Plane {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** Called for each run of pixels of a figure, clipped to the grid: row, first and last column. */
export type Span = (y: number, left: number, right: number) => void;

export interface Box {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

export function plane(width: number, height: number): Plane {
  return { width, height, data: new Uint8Array(width * height) };
}

/** A span function that writes `value` into a plane. */
export function fillPlane({ width, height, data }: Plane, value: number): Span {
  return (y, left, right) => {
    if (y >= 0 && y < height)
      data.fill(value, y * width + Math.max(left, 0), y * width + Math.min(right + 1, width));
  };
}

export function rectangle(box: Box, span: Span): void {
  const [left, right] = [Math.trunc(box.left), Math.trunc(box.right)];
  for (let y = Math.trunc(box.top); y <= Math.trunc(box.bottom); y++) span(y, left, right);
}

/**
 * Half widths of an ellipse in a box of a+1 by b+1 pixels, by row distance from the middle; both in half pixels. Walks
 * the outline from the right end upwards, each time to the neighbour nearest to a²y² + b²x² = a²b².
 */
function ellipseHalfWidths(a: number, b: number): Map<number, number> {
  const distance = (x: number, y: number) => Math.abs(a * a * y * y + b * b * x * x - a * a * b * b);
  const widths = new Map<number, number>();
  let x = a;
  let y = b % 2;
  for (;;) {
    if (!widths.has(y)) widths.set(y, x);
    if (x === a % 2 && y === b) return widths;
    const steps =
      x > 1
        ? [
            [x, y + 2],
            [x - 2, y + 2],
            [x - 2, y],
          ]
        : [[x, y + 2]];
    let best = steps[0]!;
    for (const step of steps.slice(1))
      if (distance(step[0]!, step[1]!) < distance(best[0]!, best[1]!)) best = step;
    [x, y] = best as [number, number];
  }
}

/** A filled ellipse, optionally only the pixels that `keep` (half-pixel offsets from the middle) accepts. */
export function ellipse(box: Box, span: Span, keep?: (x: number, y: number) => boolean): void {
  const [left, top] = [Math.trunc(box.left), Math.trunc(box.top)];
  const a = Math.trunc(box.right) - left;
  const b = Math.trunc(box.bottom) - top;
  if (a < 0 || b < 0) return;
  for (const [row, half] of ellipseHalfWidths(a, b)) {
    for (const y of row === 0 ? [0] : [-row, row]) {
      const line = top + (y + b) / 2;
      if (keep === undefined) {
        span(line, left + (a - half) / 2, left + (a + half) / 2);
        continue;
      }
      for (let x = -half; x <= half; x += 2) {
        const column = left + (x + a) / 2;
        if (keep(x, y)) span(line, column, column);
      }
    }
  }
}

function onEllipse({ left, top, right, bottom }: Box, degrees: number): [number, number] {
  const radians = (degrees * Math.PI) / 180;
  return [
    (Math.trunc(right) - Math.trunc(left)) * Math.cos(radians),
    (Math.trunc(bottom) - Math.trunc(top)) * Math.sin(radians),
  ];
}

/** The part of an ellipse between two angles and the middle; degrees clockwise from the right, less than 180 apart. */
export function pieslice(box: Box, start: number, end: number, span: Span): void {
  const [x0, y0] = onEllipse(box, start);
  const [x1, y1] = onEllipse(box, end);
  ellipse(box, span, (x, y) => x0 * y - y0 * x >= 0 && x * y1 - y * x1 >= 0);
}

/** The part of an ellipse between the chord of two angles and the arc. */
export function chord(box: Box, start: number, end: number, span: Span): void {
  const [x0, y0] = onEllipse(box, start);
  const [x1, y1] = onEllipse(box, end);
  ellipse(box, span, (x, y) => (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) <= 0);
}

/** Nearest integer, halves up for the left end of a run and down for the right end. */
const roundUp = (x: number) => Math.floor(x + 0.5);
const roundDown = (x: number) => Math.ceil(x - 0.5);

/** A filled polygon, even–odd; each row is filled between its edges at that row's exact height. */
export function polygon(points: readonly (readonly [number, number])[], span: Span): void {
  const corners = points.map(([x, y]) => [Math.trunc(x), Math.trunc(y)] as const);
  const rows = corners.map(([, y]) => y);
  const lowest = Math.max(...rows);
  for (let y = Math.min(...rows); y <= lowest; y++) {
    const crossings: number[] = [];
    corners.forEach(([x0, y0], i) => {
      const [x1, y1] = corners[(i + 1) % corners.length]!;
      if (y0 === y1) {
        if (y === y0) span(y, Math.min(x0, x1), Math.max(x0, x1));
        return;
      }
      const [high, low] = [Math.min(y0, y1), Math.max(y0, y1)];
      const crosses = y === lowest ? high < y && y <= low : high <= y && y < low;
      if (crosses) crossings.push(x0 + ((y - y0) * (x1 - x0)) / (y1 - y0));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 1; i < crossings.length; i += 2)
      span(y, roundUp(crossings[i - 1]!), roundDown(crossings[i]!));
  }
}

/** Mean over blocks of `factor` × `factor`, rows first, each pass rounded; `channels` interleaved. */
export function boxReduce(
  data: Uint8Array,
  width: number,
  height: number,
  channels: number,
  factor: number,
): Uint8Array {
  const [w, h] = [width / factor, height / factor];
  const across = new Uint8Array(w * height * channels);
  const out = new Uint8Array(w * h * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < w; x++) {
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let k = 0; k < factor; k++) sum += data[(y * width + x * factor + k) * channels + c]!;
        across[(y * w + x) * channels + c] = Math.floor(sum / factor + 0.5);
      }
    }
  }
  const stride = w * channels;
  for (let i = 0; i < out.length; i++) {
    const [y, rest] = [Math.floor(i / stride), i % stride];
    let sum = 0;
    for (let k = 0; k < factor; k++) sum += across[(y * factor + k) * stride + rest]!;
    out[i] = Math.floor(sum / factor + 0.5);
  }
  return out;
}

/** Weights of a triangle filter for one axis: for each output its first input and the normalised weights. */
function triangleWeights(inputs: number, outputs: number): { first: number; weights: number[] }[] {
  const scale = inputs / outputs;
  const support = Math.max(scale, 1);
  return Array.from({ length: outputs }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), inputs);
    const raw = Array.from({ length: end - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((first + k - centre + 0.5) / support)),
    );
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, weights: raw.map((weight) => weight / sum) };
  });
}

/** Bilinear resize, antialiased when shrinking, rows first, each pass rounded to bytes. */
export function resizeTriangle(source: Plane, width: number, height: number): Plane {
  const across = plane(width, source.height);
  triangleWeights(source.width, width).forEach(({ first, weights }, x) => {
    for (let y = 0; y < source.height; y++) {
      let sum = 0.5;
      weights.forEach((weight, k) => {
        sum += weight * source.data[y * source.width + first + k]!;
      });
      across.data[y * width + x] = Math.floor(sum);
    }
  });
  const out = plane(width, height);
  triangleWeights(source.height, height).forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) {
      let sum = 0.5;
      weights.forEach((weight, k) => {
        sum += weight * across.data[(first + k) * width + x]!;
      });
      out.data[y * width + x] = Math.floor(sum);
    }
  });
  return out;
}
