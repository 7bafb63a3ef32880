/** Region shapes drawn as soft masks: polygons, faded edges, mask pictures of any size. */
import { UsageError } from '../errors.ts';
import type { GrayPicture } from '../formats/picture.ts';
import { areaAverage, type Box, type SoftMask } from './region.ts';

/** Corners as fractions of the picture's width and height. */
export type Polygon = readonly (readonly [x: number, y: number])[];

/** Lines and columns into which a pixel is divided to measure how much of it a polygon covers. */
const SUBDIVISION = 4;

/** A polygon's coverage of every pixel, even-odd rule. @throws {UsageError} for fewer than three corners */
export function polygonMask(polygon: Polygon, width: number, height: number): SoftMask {
  if (polygon.length < 3)
    throw new UsageError(`polygon: expected three corners or more, got ${polygon.length}`);
  const data = new Float32Array(width * height);
  const share = 1 / SUBDIVISION ** 2;
  for (let line = 0; line < height * SUBDIVISION; line++) {
    const y = (line + 0.5) / (height * SUBDIVISION);
    const crossings = crossingsAt(polygon, y).map((x) => x * width * SUBDIVISION);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(0, Math.ceil(crossings[i]! - 0.5));
      const to = Math.min(width * SUBDIVISION, Math.ceil(crossings[i + 1]! - 0.5));
      for (let column = from; column < to; column++) {
        const at = Math.floor(line / SUBDIVISION) * width + Math.floor(column / SUBDIVISION);
        data[at] = Math.min(1, data[at]! + share);
      }
    }
  }
  return { width, height, data };
}

/** Where the polygon's edges cross a height, from left to right. */
function crossingsAt(polygon: Polygon, y: number): number[] {
  const crossings: number[] = [];
  polygon.forEach(([x1, y1], i) => {
    const [x2, y2] = polygon[(i + 1) % polygon.length]!;
    if (y1 <= y !== y2 <= y) crossings.push(x1 + ((y - y1) / (y2 - y1)) * (x2 - x1));
  });
  return crossings.sort((a, b) => a - b);
}

/** A box's coverage of every pixel; pixels at its edges count by their part. */
export function boxMask({ top, left, bottom, right }: Box, width: number, height: number): SoftMask {
  const part = (from: number, to: number, size: number): Float32Array =>
    Float32Array.from({ length: size }, (_, i) =>
      Math.max(0, Math.min(to * size, i + 1) - Math.max(from * size, i)),
    );
  const rows = part(top, bottom, height);
  const cols = part(left, right, width);
  return {
    width,
    height,
    data: Float32Array.from(
      { length: width * height },
      (_, i) => rows[Math.floor(i / width)]! * cols[i % width]!,
    ),
  };
}

/** A mask picture at another size: white belongs to the region. */
export function pictureMask(picture: GrayPicture, width: number, height: number): SoftMask {
  const own = { ...picture, data: Float32Array.from(picture.data, (value) => value / 255) };
  return { width, height, data: areaAverage(own, height, width) };
}

/**
 * Let the edges fade over `pixels` to either side (a triangular blur). Beyond the picture's border the mask goes on
 * as it is there, so that a region at the border does not fade towards it.
 */
export function feathered(mask: SoftMask, pixels: number): SoftMask {
  const radius = Math.round(pixels);
  if (radius < 1) return mask;
  const kernel = Array.from({ length: 2 * radius + 1 }, (_, i) => radius + 1 - Math.abs(i - radius));
  const { width, height, data } = mask;
  const across = blurred(data, height, width, width, 1, kernel);
  return { width, height, data: blurred(across, width, height, 1, width, kernel) };
}

/** One axis: `lines` lines, `lineStep` apart, of `count` values, `step` apart. */
function blurred(
  data: Float32Array,
  lines: number,
  count: number,
  lineStep: number,
  step: number,
  kernel: readonly number[],
): Float32Array {
  const total = kernel.reduce((sum, value) => sum + value, 0);
  const radius = (kernel.length - 1) / 2;
  const result = new Float32Array(data.length);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < count; i++) {
      let sum = 0;
      kernel.forEach((value, j) => {
        const at = Math.min(count - 1, Math.max(0, i + j - radius));
        sum += value * data[line * lineStep + at * step]!;
      });
      result[line * lineStep + i * step] = sum / total;
    }
  }
  return result;
}
