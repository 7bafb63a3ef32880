/** A map of numbers over a picture, as colour: dark where it is low, bright where it is high. */
import type { Picture } from '../formats/picture.ts';

/** Black, violet, red, orange, pale yellow. */
const RAMP = [
  [0, 0, 8],
  [87, 16, 110],
  [188, 55, 84],
  [249, 142, 9],
  [252, 255, 164],
] as const;

/** Share of the colours in the mixture. */
const OPACITY = 0.65;

/**
 * Lay a map over a picture. The map is stretched to the picture's size (bilinear) and its own range from zero to the
 * largest value to the whole ramp.
 * @param values [height, width], not negative
 */
export function heatOverlay(
  picture: Picture,
  {
    height,
    width,
    values,
  }: { readonly height: number; readonly width: number; readonly values: Float32Array },
): Picture {
  const largest = values.reduce((most, value) => Math.max(most, value), 0);
  const data = new Uint8Array(picture.data.length);
  for (let y = 0; y < picture.height; y++) {
    for (let x = 0; x < picture.width; x++) {
      const v = (y + 0.5) * (height / picture.height) - 0.5;
      const u = (x + 0.5) * (width / picture.width) - 0.5;
      const share = largest > 0 ? bilinear(values, height, width, v, u) / largest : 0;
      const at = (y * picture.width + x) * 3;
      const heat = rampColour(share);
      for (let channel = 0; channel < 3; channel++) {
        const mixed = OPACITY * heat[channel]! + (1 - OPACITY) * picture.data[at + channel]!;
        data[at + channel] = Math.round(mixed);
      }
    }
  }
  return { width: picture.width, height: picture.height, data };
}

function bilinear(values: Float32Array, height: number, width: number, v: number, u: number): number {
  const top = Math.min(Math.max(v, 0), height - 1);
  const left = Math.min(Math.max(u, 0), width - 1);
  const [y0, x0] = [Math.floor(top), Math.floor(left)];
  const [y1, x1] = [Math.min(y0 + 1, height - 1), Math.min(x0 + 1, width - 1)];
  const across = (y: number): number =>
    values[y * width + x0]! * (1 - (left - x0)) + values[y * width + x1]! * (left - x0);
  return across(y0) * (1 - (top - y0)) + across(y1) * (top - y0);
}

function rampColour(share: number): readonly number[] {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const below = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[below]!.map((value, channel) => value + (place - below) * (RAMP[below + 1]![channel]! - value));
}
