/** Region shapes drawn as soft masks: polygons, faded edges, mask pictures of any size. */
import { UsageError } from '../errors.ts';
import type { GrayPicture } from '../formats/picture.ts';
import { MAX_CORNERS, MAX_FEATHER, MAX_PIXELS, MAX_SIDE, rangeMessage } from './limits.ts';
import { areaAverage, type Box, type SoftMask } from './region.ts';

/** Corners as fractions of the picture's width and height. */
export type Polygon = readonly (readonly [x: number, y: number])[];

/** Lines and columns into which a pixel is divided to measure how much of it a polygon covers. */
const SUBDIVISION = 4;

/**
 * A polygon's coverage of every pixel, even-odd rule.
 * @throws {UsageError} for fewer than three corners, more than 1024, corners that are no numbers, or a mask beyond
 *   `MAX_PIXELS`
 */
export function polygonMask(polygon: Polygon, width: number, height: number): SoftMask {
  if (polygon.length < 3)
    throw new UsageError(`polygon: expected three corners or more, got ${polygon.length}`);
  if (polygon.length > MAX_CORNERS)
    throw new UsageError(`polygon: expected at most ${MAX_CORNERS} corners, got ${polygon.length}`);
  const wild = polygon.flat().find((value) => !Number.isFinite(value));
  if (wild !== undefined) throw new UsageError(`polygon: expected numbers, got ${wild}`);
  const data = emptyMask(width, height);
  const columns = width * SUBDIVISION;
  const room = new Float64Array(polygon.length);
  for (let line = 0; line < height * SUBDIVISION; line++) {
    const y = (line + 0.5) / (height * SUBDIVISION);
    const row = Math.floor(line / SUBDIVISION) * width;
    const crossings = crossingsAt(polygon, y, room);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(0, Math.ceil(crossings[i]! * columns - 0.5));
      const to = Math.min(columns, Math.ceil(crossings[i + 1]! * columns - 0.5));
      if (from < to) coverColumns(data, row, from, to);
    }
  }
  return { width, height, data };
}

/** Add one line's part of each pixel between two of its columns. */
function coverColumns(data: Float32Array, row: number, from: number, to: number): void {
  const [first, last] = [Math.floor(from / SUBDIVISION), Math.floor((to - 1) / SUBDIVISION)];
  for (let pixel = first; pixel <= last; pixel++) {
    const columns = Math.min(to, (pixel + 1) * SUBDIVISION) - Math.max(from, pixel * SUBDIVISION);
    data[row + pixel] = Math.min(1, data[row + pixel]! + columns / SUBDIVISION ** 2);
  }
}

/** Where the polygon's edges cross a height, from left to right. @param room for as many as there are edges */
function crossingsAt(polygon: Polygon, y: number, room: Float64Array): Float64Array {
  let count = 0;
  for (let i = 0; i < polygon.length; i++) {
    const [x1, y1] = polygon[i]!;
    const [x2, y2] = polygon[i + 1 < polygon.length ? i + 1 : 0]!;
    if (y1 <= y !== y2 <= y) room[count++] = x1 + ((y - y1) / (y2 - y1)) * (x2 - x1);
  }
  // Numbers in a typed array sort as numbers, several times faster than by a function.
  return room.subarray(0, count).sort();
}

/** A box's coverage of every pixel; pixels at its edges count by their part. @throws {UsageError} beyond `MAX_PIXELS` */
export function boxMask({ top, left, bottom, right }: Box, width: number, height: number): SoftMask {
  const part = (from: number, to: number, size: number): Float32Array =>
    Float32Array.from({ length: size }, (_, i) =>
      Math.max(0, Math.min(to * size, i + 1) - Math.max(from * size, i)),
    );
  const data = emptyMask(width, height);
  const rows = part(top, bottom, height);
  const cols = part(left, right, width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) data[y * width + x] = rows[y]! * cols[x]!;
  }
  return { width, height, data };
}

/** @throws {UsageError} for a size that no picture here has */
function emptyMask(width: number, height: number): Float32Array {
  const sides = [width, height].every((side) => Number.isSafeInteger(side) && side >= 1 && side <= MAX_SIDE);
  if (!sides || width * height > MAX_PIXELS) {
    throw new UsageError(
      `mask: expected sides of 1 … ${MAX_SIDE} and at most ${MAX_PIXELS} pixels, got ${width} × ${height}`,
    );
  }
  return new Float32Array(width * height);
}

/** A mask picture at another size: white belongs to the region. */
export function pictureMask(picture: GrayPicture, width: number, height: number): SoftMask {
  const data = areaAverage(picture, height, width);
  for (let i = 0; i < data.length; i++) data[i] = data[i]! / 255;
  return { width, height, data };
}

/**
 * Let the edges fade over `pixels` to either side (a triangular blur). Beyond the picture's border the mask goes on
 * as it is there, so that a region at the border does not fade towards it. Time does not depend on `pixels`.
 * @throws {UsageError} for a width outside 0 … 4096
 */
export function feathered(mask: SoftMask, pixels: number): SoftMask {
  if (!(pixels >= 0 && pixels <= MAX_FEATHER)) {
    throw new UsageError(`feather: ${rangeMessage(0, MAX_FEATHER, pixels)} pixels`);
  }
  const radius = Math.round(pixels);
  if (radius < 1) return mask;
  const { width, height, data } = mask;
  const across = blurred(data, height, width, width, 1, radius);
  return { width, height, data: blurred(across, width, height, 1, width, radius) };
}

/**
 * One axis: `lines` lines, `lineStep` apart, of `count` values, `step` apart. With weights r + 1 − |j| for j from −r to r,
 * the sum moves from one value to the next by the r + 1 values ahead less the r + 1 behind.
 */
function blurred(
  data: Float32Array,
  lines: number,
  count: number,
  lineStep: number,
  step: number,
  radius: number,
): Float32Array {
  const total = (radius + 1) ** 2;
  const result = new Float32Array(data.length);
  /** Of the values from the line's beginning, in float64: sums[i] is that of the first i. */
  const sums = new Float64Array(count + 1);
  for (let line = 0; line < lines; line++) {
    const start = line * lineStep;
    const [first, last] = [data[start]!, data[start + (count - 1) * step]!];
    for (let i = 0; i < count; i++) sums[i + 1] = sums[i]! + data[start + i * step]!;
    /** Of the values before `end`, those beyond both ends like the ends. */
    const before = (end: number): number =>
      end < 0 ? end * first : end > count ? sums[count]! + (end - count) * last : sums[end]!;
    let sum = (first * radius * (radius + 1)) / 2;
    const inside = Math.min(count - 1, radius);
    for (let j = 0; j <= inside; j++) sum += (radius + 1 - j) * data[start + j * step]!;
    const beyond = radius - inside;
    sum += (last * beyond * (beyond + 1)) / 2;
    for (let i = 0; i < count; i++) {
      // Rounding must not leave the range: a region of nothing has no shadow of itself.
      result[start + i * step] = Math.min(1, Math.max(0, sum / total));
      sum += before(i + radius + 2) - 2 * before(i + 1) + before(i - radius);
    }
  }
  return result;
}
