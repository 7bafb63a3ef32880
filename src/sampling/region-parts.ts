/**
 * Regions that are kept apart: who owns each row of the picture, whom it attends to, whose statistics it is normalised by, and
 * which neighbours a convolution must not read. Regions see themselves; the background, which the context owns, sees everything.
 */
import { PART_KERNEL } from '../models/unet/part-conv.ts';
import { levelInputs, type PartsLayout, SEAM_STRIDES } from '../models/unet/region-attention.ts';
import { float32, int64, type Tensor } from '../tensor/tensor.ts';

export interface Size {
  readonly height: number;
  readonly width: number;
}

/** Parts of a picture that are kept apart: how, by level, and the inputs of region-attention.ts for it. */
export interface KeptApart {
  readonly levels: readonly PartsLayout[];
  readonly feeds: Record<string, Tensor>;
}

/** Owner of the rows of the background. */
const BACKGROUND = 0;

/** The source with the largest weight in each row of a level. @param weights of the sources, [source][N] */
export function partOwners(weights: readonly Float32Array[]): number[] {
  return Array.from(weights[0]!, (_, n) =>
    weights.reduce((best, own, source) => (own[n]! > weights[best]![n]! ? source : best), BACKGROUND),
  );
}

/** @param owners of each row, by level */
export function keepApart(
  owners: readonly (readonly number[])[],
  sources: number,
  levels: readonly Size[],
): KeptApart {
  const feeds: Record<string, Tensor> = {};
  const layouts = levels.map((size, level): PartsLayout => {
    const { sizes, rows } = partition(owners[level]!, sources);
    const back = new Array<number>(rows.length);
    rows.forEach((row, place) => {
      back[row] = place;
    });
    feeds[levelInputs.partRows(level)] = int64([rows.length], rows);
    feeds[levelInputs.partPlaces(level)] = int64([back.length], back);
    Object.assign(feeds, statistics(level, rows, sizes));
    const seams: Record<number, number> = {};
    for (const stride of SEAM_STRIDES) {
      const target = level + stride - 1;
      if (target >= levels.length) continue;
      const input = { ...size, owners: owners[level]! };
      const found = partSeams(input, { ...levels[target]!, owners: owners[target]! }, stride);
      const shape = [PART_KERNEL, found.taps.length / PART_KERNEL];
      seams[stride] = shape[1]! / PART_KERNEL;
      feeds[levelInputs.seamTaps(level, stride)] = int64(shape, found.taps);
      feeds[levelInputs.seamForeign(level, stride)] = float32(shape, Float32Array.from(found.foreign));
      feeds[levelInputs.seamPlaces(level, stride)] = int64([found.places.length], found.places);
    }
    return { rows: sizes, seams };
  });
  return { levels: layouts, feeds };
}

/** Rows part by part: regions first, the background's last. */
function partition(owners: readonly number[], sources: number): { sizes: number[]; rows: number[] } {
  const order = Array.from({ length: sources }, (_, i) => (i + 1) % sources);
  const parts = order.map((source) => owners.flatMap((owner, n) => (owner === source ? [n] : [])));
  return { sizes: parts.map((part) => part.length), rows: parts.flat() };
}

/** Rows of each part's statistics (its own; for the background all) and rows of each part. */
function statistics(
  level: number,
  rows: readonly number[],
  sizes: readonly number[],
): Record<string, Tensor> {
  const shape = [rows.length, sizes.length];
  const [members, owners] = [float32(shape), float32(shape)];
  let at = 0;
  sizes.forEach((size, part) => {
    const background = part === sizes.length - 1;
    // A part without rows counts all, so that nothing is divided by zero.
    for (const row of background || size === 0 ? rows : rows.slice(at, at + size)) {
      members.data[row * sizes.length + part] = 1;
    }
    for (const row of rows.slice(at, at + size)) owners.data[row * sizes.length + part] = 1;
    at += size;
  });
  return { [levelInputs.partMembers(level)]: members, [levelInputs.partOwners(level)]: owners };
}

interface OwnedLevel extends Size {
  readonly owners: readonly number[];
}

/** What a convolution's output would read of other parts, as `Seams` of part-conv.ts. */
export interface PartSeams {
  readonly taps: readonly number[];
  readonly foreign: readonly number[];
  readonly places: readonly number[];
}

/** @param stride of the 3×3 convolution from `input` to `output`, which pads by one cell */
export function partSeams(input: OwnedLevel, output: OwnedLevel, stride: number): PartSeams {
  const count = PART_KERNEL ** 2;
  const nothing = Array.from({ length: count }, () => ({ cell: 0, foreign: false }));
  const seams = [nothing];
  const places = output.owners.map((owner, n) => {
    if (owner === BACKGROUND) return 0;
    const [y, x] = [Math.floor(n / output.width), n % output.width];
    const taps = nothing.map((_, tap) => {
      const row = stride * y + Math.floor(tap / PART_KERNEL) - 1;
      const column = stride * x + (tap % PART_KERNEL) - 1;
      const inside = row >= 0 && row < input.height && column >= 0 && column < input.width;
      const cell = inside ? row * input.width + column : 0;
      return { cell, foreign: inside && input.owners[cell] !== owner };
    });
    return taps.some(({ foreign }) => foreign) ? seams.push(taps) - 1 : 0;
  });
  const lines = Array.from({ length: PART_KERNEL }, (_, row) =>
    seams.flatMap((taps) => taps.slice(PART_KERNEL * row, PART_KERNEL * (row + 1))),
  ).flat();
  return {
    taps: lines.map(({ cell }) => cell),
    foreign: lines.map(({ foreign }) => (foreign ? 1 : 0)),
    places,
  };
}
