/** The main object of a picture on a plain or gently shaded ground, and small operations on its mask. */
import type { Picture } from './picture.ts';

/** The value below which `percent` of the numbers lie, linear between neighbours. */
export function percentile(values: ArrayLike<number>, percent: number): number {
  const sorted = Float64Array.from(values).sort();
  const at = ((sorted.length - 1) * percent) / 100;
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (at - low);
}

export function median(values: ArrayLike<number>): number {
  return percentile(values, 50);
}

/** One pixel of the border: its place, each axis in [−½, ½), and its colour. */
interface BorderPixel {
  readonly u: number;
  readonly v: number;
  readonly rgb: readonly [number, number, number];
}

/** Least squares of c0 + c1·u + c2·v for each channel, by normal equations; three rows of coefficients. */
function fitPlane(pixels: readonly BorderPixel[]): [number, number, number][] {
  const rows = Array.from({ length: 3 }, () => new Float64Array(6));
  for (const { u, v, rgb } of pixels) {
    const basis = [1, u, v];
    for (let i = 0; i < 3; i++) {
      for (let j = 0; j < 3; j++) rows[i]![j] = rows[i]![j]! + basis[i]! * basis[j]!;
      for (let c = 0; c < 3; c++) rows[i]![3 + c] = rows[i]![3 + c]! + basis[i]! * rgb[c]!;
    }
  }
  for (let k = 0; k < 3; k++) {
    for (let i = 0; i < 3; i++) {
      if (i === k) continue;
      const factor = rows[i]![k]! / rows[k]![k]!;
      for (let j = 0; j < 6; j++) rows[i]![j] = rows[i]![j]! - factor * rows[k]![j]!;
    }
  }
  return [0, 1, 2].map((c) => rows.map((row, k) => row[3 + c]! / row[k]!) as [number, number, number]);
}

/** The ground's colour at every pixel, [H, W, 3]: a plane fitted to the border, twice, without its outliers. */
export function fitGround({ width, height, data }: Picture): Float64Array {
  const pixels: BorderPixel[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (y >= 2 && x >= 2 && y < height - 2 && x < width - 2) continue;
      const at = (y * width + x) * 3;
      pixels.push({
        u: x / width - 0.5,
        v: y / height - 0.5,
        rgb: [data[at]!, data[at + 1]!, data[at + 2]!],
      });
    }
  }
  const middle = [0, 1, 2].map((c) => median(pixels.map(({ rgb }) => rgb[c]!)));
  const near = pixels.filter(
    ({ rgb }) => rgb.reduce((sum, value, c) => sum + Math.abs(value - middle[c]!), 0) < 90,
  );
  let kept = near.length < 30 ? pixels : near;
  let planes = fitPlane(kept);
  for (let round = 0; round < 2; round++) {
    planes = fitPlane(kept);
    const residuals = pixels.map(({ u, v, rgb }) =>
      planes.reduce((sum, [c0, c1, c2], c) => sum + Math.abs(c0 + c1 * u + c2 * v - rgb[c]!), 0),
    );
    const bound = Math.max(12, percentile(residuals, 85));
    kept = pixels.filter((_, i) => residuals[i]! <= bound);
  }
  const ground = new Float64Array(width * height * 3);
  for (let i = 0; i < ground.length; i++) {
    const at = Math.floor(i / 3);
    const [c0, c1, c2] = planes[i % 3]!;
    ground[i] = c0 + c1 * ((at % width) / width - 0.5) + c2 * (Math.floor(at / width) / height - 0.5);
  }
  return ground;
}

/** The connected parts of a mask (neighbours in 8 directions), in reading order: the pixels of each. */
export function components(mask: Uint8Array, width: number, height: number): number[][] {
  const seen = mask.slice();
  const parts: number[][] = [];
  for (let start = 0; start < seen.length; start++) {
    if (seen[start] === 0) continue;
    const part = [start];
    seen[start] = 0;
    for (let next = 0; next < part.length; next++) {
      const [x, y] = [part[next]! % width, Math.floor(part[next]! / width)];
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          if (seen[v * width + u] === 0) continue;
          seen[v * width + u] = 0;
          part.push(v * width + u);
        }
      }
    }
    parts.push(part);
  }
  return parts;
}

/** The mask that is set at these pixels alone. */
export function maskOf(pixels: readonly number[], count: number): Uint8Array {
  const out = new Uint8Array(count);
  for (const at of pixels) out[at] = 1;
  return out;
}

/** The largest connected part of a mask, the first of equals in reading order. */
export function largestComponent(mask: Uint8Array, width: number, height: number): Uint8Array {
  const parts = components(mask, width, height);
  const largest = parts.reduce((best, part) => (part.length > best.length ? part : best), []);
  return maskOf(largest, mask.length);
}

/** Pixels whose four neighbours are set as well; beyond the edge nothing is set. */
export function erode(mask: Uint8Array, width: number, height: number): Uint8Array {
  return mask.map((value, at) => {
    const [x, y] = [at % width, Math.floor(at / width)];
    const inner = x > 0 && y > 0 && x < width - 1 && y < height - 1;
    return value !== 0 && inner && mask[at - 1]! && mask[at + 1]! && mask[at - width]! && mask[at + width]!
      ? 1
      : 0;
  });
}

export interface Segmentation {
  /** Ground colours, [H, W, 3]. */
  readonly ground: Float64Array;
  /** 1 on objects, [H, W]. */
  readonly mask: Uint8Array;
}

/** Pixels farther than 42 from the ground's colour, and that colour everywhere. */
export function foreground(picture: Picture): Segmentation {
  const ground = fitGround(picture);
  const mask = new Uint8Array(picture.width * picture.height);
  for (let i = 0; i < mask.length; i++) {
    let square = 0;
    for (let c = 3 * i; c < 3 * i + 3; c++) square += (picture.data[c]! - ground[c]!) ** 2;
    mask[i] = Math.sqrt(square) > 42 ? 1 : 0;
  }
  return { ground, mask };
}

/** The largest connected part of the foreground. */
export function segment(picture: Picture): Segmentation {
  const { ground, mask } = foreground(picture);
  return { ground, mask: largestComponent(mask, picture.width, picture.height) };
}
