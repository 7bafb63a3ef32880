/** Between the numbers of the autoencoder, about [−1, 1] in planes, and 8-bit pictures. */
import type { Picture } from '../formats/picture.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { roundHalfEven } from './noise-schedule.ts';

const f32 = Math.fround;

/**
 * Planes [3, H, W] to pixels: round-half-even(clamp(x / 2 + 1/2, 0, 1) · 255), in float32 as diffusers computes it.
 */
export function toPicture(planes: Float32Array, height: number, width: number): Picture {
  const data = new Uint8Array(height * width * 3);
  const size = height * width;
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < size; i++) {
      const unit = f32(planes[c * size + i]! / 2 + 0.5);
      data[3 * i + c] = roundHalfEven(f32(Math.min(1, Math.max(0, unit)) * 255));
    }
  }
  return { width, height, data };
}

/** Pixels to planes [1, 3, H, W]: value / 255, stretched to [−1, 1] where `signed`. */
export function toPlanes({ width, height, data }: Picture, signed: boolean): Tensor<Float32Array> {
  const planes = float32([1, 3, height, width]);
  const size = height * width;
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < size; i++) {
      const unit = f32(data[3 * i + c]! / 255);
      planes.data[c * size + i] = signed ? f32(2 * unit - 1) : unit;
    }
  }
  return planes;
}
