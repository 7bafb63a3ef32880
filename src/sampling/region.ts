/** Where a text rules: shapes on the picture, and what they cover at the UNet's resolutions. */
import { UsageError } from '../errors.ts';
import type { ConceptUse } from './concept-places.ts';
import type { StatesInPlace } from './given-states.ts';

/** Edges as fractions of the picture's height and width, 0 … 1. */
export interface Box {
  readonly top: number;
  readonly left: number;
  readonly bottom: number;
  readonly right: number;
}

/** How much each pixel belongs to a region, 0 … 1. */
export interface SoftMask {
  readonly width: number;
  readonly height: number;
  /** [H, W] */
  readonly data: Float32Array;
}

export type RegionShape =
  | { readonly kind: 'box'; readonly box: Box }
  | { readonly kind: 'mask'; readonly mask: SoftMask };

/** A text with its place. */
export interface Region extends StatesInPlace {
  readonly prompt: string;
  /** Default: empty, as in Mix-of-Show. */
  readonly negativePrompt?: string;
  readonly shape: RegionShape;
  /** Counts where regions overlap: each gets its weight's part. Default 1, which is the plain average. */
  readonly weight?: number;
  /** Concepts of the pipeline that act here. Default: those of the context. */
  readonly concepts?: readonly ConceptUse[];
}

/** First and one past the last cell that a box covers along one axis: rounded inwards. */
export function coveredCells(from: number, to: number, size: number): readonly [start: number, end: number] {
  return [Math.ceil(from * size), Math.floor(to * size)];
}

/**
 * What a shape covers at a resolution, [height · width]. Boxes cover whole cells, rounded inwards (start up, end down)
 * at each resolution by itself, and may be empty at a low one; masks are averaged over each cell's area.
 * Source of the rounding: TencentARC/Mix-of-Show@51270fd, pipeline_regionally_t2iadapter.py.
 */
export function coverage(shape: RegionShape, height: number, width: number): Float32Array {
  if (shape.kind === 'mask') return areaAverage(shape.mask, height, width);
  const covered = new Float32Array(height * width);
  const [top, bottom] = coveredCells(shape.box.top, shape.box.bottom, height);
  const [left, right] = coveredCells(shape.box.left, shape.box.right, width);
  for (let y = Math.max(0, top); y < Math.min(height, bottom); y++) {
    covered.fill(1, y * width + Math.max(0, left), y * width + Math.max(0, left, Math.min(width, right)));
  }
  return covered;
}

/**
 * Size of a region as a picture of its own, in pixels: of the cells of the latents that a box covers; of a mask how far it goes along each
 * axis, where soft edges count by their share.
 * @param factor pixels per latent cell
 */
export function ownSize(
  shape: RegionShape,
  { width, height }: { readonly width: number; readonly height: number },
  factor: number,
): { width: number; height: number } {
  if (shape.kind === 'mask') return extentOf(shape.mask, { width, height });
  const { top, left, bottom, right } = shape.box;
  const side = (from: number, to: number, size: number): number => {
    const [start, end] = coveredCells(from, to, size / factor);
    return factor * (end - start);
  };
  return { width: side(left, right, width), height: side(top, bottom, height) };
}

/** How far a mask goes along each axis of a picture, where soft edges count by their share of its greatest value. */
function extentOf(
  { width, height, data }: SoftMask,
  picture: { readonly width: number; readonly height: number },
): { width: number; height: number } {
  const [columns, rows] = [new Float64Array(width), new Float64Array(height)];
  data.forEach((value, i) => {
    const [x, y] = [i % width, Math.floor(i / width)];
    columns[x] = Math.max(columns[x]!, value);
    rows[y] = Math.max(rows[y]!, value);
  });
  const greatest = Math.max(...rows);
  const side = (lines: Float64Array, size: number): number =>
    Math.max(
      1,
      Math.round((size / lines.length) * lines.reduce((sum, value) => sum + value / (greatest || 1), 0)),
    );
  return { width: side(columns, picture.width), height: side(rows, picture.height) };
}

/** Mean over each cell's area; pixels that cells share count by their part. */
export function areaAverage(
  mask: { readonly width: number; readonly height: number; readonly data: ArrayLike<number> },
  height: number,
  width: number,
): Float32Array {
  const rows = shares(mask.height, height);
  const cols = shares(mask.width, width);
  const { data } = mask;
  const result = new Float32Array(height * width);
  const line = new Float64Array(width);
  for (let y = 0; y < height; y++) {
    line.fill(0);
    for (let i = rows.start[y]!; i < rows.start[y + 1]!; i++) {
      const from = rows.pixels[i]! * mask.width;
      for (let x = 0; x < width; x++) {
        let sum = 0;
        for (let j = cols.start[x]!; j < cols.start[x + 1]!; j++)
          sum += cols.parts[j]! * data[from + cols.pixels[j]!]!;
        line[x]! += rows.parts[i]! * sum;
      }
    }
    result.set(line, y * width);
  }
  return result;
}

/** Which pixels lie under each cell along an axis: those from `start[cell]` to `start[cell + 1]`, with their parts. */
interface AxisShares {
  readonly start: Int32Array;
  readonly pixels: Int32Array;
  /** Sum to 1 in each cell. */
  readonly parts: Float64Array;
}

/** For each of `to` cells: the pixels under it, of `from`. */
function shares(from: number, to: number): AxisShares {
  const scale = from / to;
  const start = new Int32Array(to + 1);
  // No more than the pixels and the borders between cells.
  const pixels = new Int32Array(from + 2 * to);
  const parts = new Float64Array(from + 2 * to);
  let count = 0;
  for (let cell = 0; cell < to; cell++) {
    const [begin, end] = [cell * scale, (cell + 1) * scale];
    for (let pixel = Math.floor(begin); pixel < Math.min(from, end); pixel++) {
      const part = (Math.min(end, pixel + 1) - Math.max(begin, pixel)) / scale;
      if (part <= 1e-12) continue;
      pixels[count] = pixel;
      parts[count++] = part;
    }
    start[cell + 1] = count;
  }
  return { start, pixels, parts };
}

/** @throws {UsageError} for a box that lies outside the picture or has no inside */
export function checkBox(where: string, { top, left, bottom, right }: Box): void {
  const shown = [left, top, right, bottom].join(', ');
  if (![top, left, bottom, right].every((edge) => edge >= 0 && edge <= 1)) {
    throw new UsageError(
      `${where}: expected a box inside the picture, got left, top, right, bottom = ${shown} of it`,
    );
  }
  if (top >= bottom || left >= right) {
    throw new UsageError(`${where}: expected left < right and top < bottom, got ${shown}`);
  }
}

/** @throws {UsageError} for a shape that lies outside the picture, or covers no cell of the latents */
export function checkRegion(
  where: string,
  shape: RegionShape,
  latentHeight: number,
  latentWidth: number,
): void {
  if (shape.kind === 'box') checkBox(where, shape.box);
  if (coverage(shape, latentHeight, latentWidth).every((share) => share === 0)) {
    throw new UsageError(
      `${where}: covers no whole cell of the ${latentWidth} × ${latentHeight} latents; make it larger (numbers above 1 are pixels)`,
    );
  }
}
