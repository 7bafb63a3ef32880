/** The views of a picture that are trained on: crops, mirrored copies, the object moved inside the frame. */
import type { GrayPicture, Picture } from '../../formats/picture.ts';
import type { TorchGenerator } from '../../tensor/random.ts';

/** One view: RGB of the trained size, and where the loss looks (255); null: everywhere. */
export interface View {
  readonly picture: Picture;
  readonly mask: Uint8Array | null;
  /** Where it was cut from the scaled picture. Default: at the corner. */
  readonly crop?: { readonly left: number; readonly top: number };
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

/**
 * Sizes of about `resolution`² pixels whose sides are multiples of `unit`, for pictures of any aspect ratio; the nearest
 * ratio is taken. Without buckets every picture gets the square.
 */
export function trainedSize(
  { width, height }: Size,
  resolution: number,
  unit: number,
  buckets: boolean,
): Size {
  const side = Math.max(unit, Math.round(resolution / unit) * unit);
  if (!buckets) return { width: side, height: side };
  const ratio = Math.log(width / height);
  let best: Size = { width: side, height: side };
  let distance = Math.abs(ratio);
  for (let w = unit; w <= 4 * side; w += unit) {
    const h = Math.floor((side * side) / w / unit) * unit;
    if (h < unit) break;
    const own = Math.abs(ratio - Math.log(w / h));
    if (own < distance - 1e-9) [best, distance] = [{ width: w, height: h }, own];
  }
  return best;
}

/** The smallest size of the picture's ratio that covers `target`. */
export function coveringSize({ width, height }: Size, target: Size): Size {
  const scale = Math.max(target.width / width, target.height / height);
  return {
    width: Math.max(target.width, Math.round(width * scale)),
    height: Math.max(target.height, Math.round(height * scale)),
  };
}

/** A mask at another size, by the nearest pixel. */
export function resizedMask(mask: GrayPicture, { width, height }: Size): Uint8Array {
  return Uint8Array.from({ length: width * height }, (_, i) => {
    const row = Math.min(mask.height - 1, Math.floor(((Math.floor(i / width) + 0.5) * mask.height) / height));
    const column = Math.min(mask.width - 1, Math.floor((((i % width) + 0.5) * mask.width) / width));
    return mask.data[row * mask.width + column]!;
  });
}

/** The view at (top, left) of a larger picture. Places outside are continued from the edge. */
export function cut({ picture, mask }: View, top: number, left: number, { width, height }: Size): View {
  const data = new Uint8Array(width * height * 3);
  const outMask = mask === null ? null : new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.min(picture.height - 1, Math.max(0, y + top));
    for (let x = 0; x < width; x++) {
      const from = row * picture.width + Math.min(picture.width - 1, Math.max(0, x + left));
      const to = y * width + x;
      for (let c = 0; c < 3; c++) data[3 * to + c] = picture.data[3 * from + c]!;
      if (outMask !== null) outMask[to] = mask![from]!;
    }
  }
  return { picture: { width, height, data }, mask: outMask };
}

export function mirrored({ picture, mask }: View): View {
  const { width, height } = picture;
  const data = new Uint8Array(picture.data.length);
  const outMask = mask === null ? null : new Uint8Array(mask.length);
  for (let i = 0; i < width * height; i++) {
    const from = i - (i % width) + width - 1 - (i % width);
    for (let c = 0; c < 3; c++) data[3 * i + c] = picture.data[3 * from + c]!;
    if (outMask !== null) outMask[i] = mask![from]!;
  }
  return { picture: { width, height, data }, mask: outMask };
}

/** The object of the mask moved to a random place inside the frame. A picture without a mask stays as it is. */
export function shifted(view: View, random: TorchGenerator): View {
  const { picture, mask } = view;
  if (mask === null) return view;
  const { width, height } = picture;
  let [top, bottom, left, right] = [height, -1, width, -1];
  mask.forEach((value, i) => {
    if (value <= 127) return;
    const [y, x] = [Math.floor(i / width), i % width];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    [left, right] = [Math.min(left, x), Math.max(right, x)];
  });
  // An object that the frame cuts off stays there: moved inwards, its edge would be smeared.
  const within = (low: number, high: number, size: number): number =>
    low === 0 || high === size - 1 ? 0 : random.randint(-low, size - high, 1)[0]!;
  const across = within(left, right, width);
  const down = within(top, bottom, height);
  return cut(view, -down, -across, { width, height });
}

/** Mask [H, W] to latent cells: a cell counts if any of its pixels does. */
export function latentMask(mask: Uint8Array, { width, height }: Size, factor: number): Float32Array {
  const [rows, columns] = [Math.floor(height / factor), Math.floor(width / factor)];
  const cells = new Float32Array(rows * columns);
  mask.forEach((value, i) => {
    const [row, column] = [Math.floor(Math.floor(i / width) / factor), Math.floor((i % width) / factor)];
    if (value > 127 && row < rows && column < columns) cells[row * columns + column] = 1;
  });
  return cells;
}
