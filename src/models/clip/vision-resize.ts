/**
 * Pillow's bicubic resize of 8-bit pictures, to the last bit: what CLIP's own preprocessing runs on. Enlarging
 * interpolates; reducing widens the filter (antialiasing).
 */
import { ShapeError } from '../../errors.ts';
import type { Picture } from '../../formats/picture.ts';

/** Weights are integers in units of 2⁻²². */
const PRECISION_BITS = 22;

/** Keys' cubic with a = −1/2, support 2. */
function bicubic(x: number): number {
  const distance = Math.abs(x);
  if (distance < 1) return (1.5 * distance - 2.5) * distance * distance + 1;
  if (distance < 2) return ((-0.5 * distance + 2.5) * distance - 4) * distance + 2;
  return 0;
}

/** For one output pixel: the first input pixel and the weights from there on. */
interface Taps {
  readonly first: number;
  readonly weights: Int32Array;
}

function tapsOf(inputSize: number, outputSize: number): Taps[] {
  const scale = inputSize / outputSize;
  const filterScale = Math.max(scale, 1);
  const support = 2 * filterScale;
  return Array.from({ length: outputSize }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(inputSize, Math.trunc(centre + support + 0.5));
    const exact = Array.from({ length: end - first }, (_, x) =>
      bicubic((x + first - centre + 0.5) * (1 / filterScale)),
    );
    const sum = exact.reduce((a, b) => a + b, 0);
    const weights = Int32Array.from(exact, (weight) => {
      const scaled = (weight / sum) * 2 ** PRECISION_BITS;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { first, weights };
  });
}

function clip(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/**
 * Resize along the axis whose neighbours lie `step` bytes apart. Lines start at `lineStart(line)`.
 * Both passes round to 8 bits, as Pillow does.
 */
function resample(
  source: Uint8Array,
  target: Uint8Array,
  taps: readonly Taps[],
  lines: number,
  [sourceLine, targetLine]: readonly [number, number],
  step: number,
): void {
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < taps.length; i++) {
      const { first, weights } = taps[i]!;
      const to = line * targetLine + i * step;
      const from = line * sourceLine + first * step;
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let tap = 0; tap < weights.length; tap++) {
          sum += source[from + tap * step + channel]! * weights[tap]!;
        }
        target[to + channel] = clip(sum >> PRECISION_BITS);
      }
    }
  }
}

/**
 * Resize to exactly `width` × `height`.
 * @throws {ShapeError} if either size is not a positive integer, or the picture's bytes do not fit its size
 * Source: Pillow, src/libImaging/Resample.c.
 */
export function resizeBicubic(
  picture: Picture,
  { width, height }: { readonly width: number; readonly height: number },
): Picture {
  if (picture.data.length !== picture.width * picture.height * 3) {
    throw new ShapeError(
      `picture: expected ${picture.width} × ${picture.height} × 3 bytes, got ${picture.data.length}`,
    );
  }
  for (const size of [width, height, picture.width, picture.height]) {
    if (!Number.isInteger(size) || size < 1)
      throw new ShapeError(`resize: expected positive sizes, got ${size}`);
  }
  let { data } = picture;
  if (width !== picture.width) {
    const narrowed = new Uint8Array(width * picture.height * 3);
    const taps = tapsOf(picture.width, width);
    resample(data, narrowed, taps, picture.height, [picture.width * 3, width * 3], 3);
    data = narrowed;
  }
  if (height !== picture.height) {
    const shortened = new Uint8Array(width * height * 3);
    // Columns are the lines now: they lie 3 bytes apart, their pixels a whole row.
    resample(data, shortened, tapsOf(picture.height, height), width, [3, 3], width * 3);
    data = shortened;
  }
  return { width, height, data };
}
