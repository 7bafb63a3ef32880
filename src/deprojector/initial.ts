/** What a deprojector begins as: the text encoder's last layer where it has the same weights, small random maps elsewhere. */
import { readFloat32 } from '../formats/raw-tensor.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import type { ClipTextConfig } from '../models/clip/config.ts';
import type { TorchGenerator } from '../tensor/random.ts';
import { sizeOf } from '../tensor/tensor.ts';

/** A parameter's first numbers. @param shape [m, n] of a map, [n] of a norm or of a bias */
export function initialParameter(
  name: string,
  shape: readonly number[],
  { weights, config }: ModelPart<ClipTextConfig>,
  random: TorchGenerator,
): Float32Array {
  const own = name
    .replace(/^layer\./, `text_model.encoder.layers.${config.numLayers - 1}.`)
    .replace(/^final_layer_norm\./, 'text_model.final_layer_norm.');
  const known = own === name ? undefined : weights.get(own, shape);
  if (known !== undefined && known.shape.join() === shape.join()) return readFloat32(known).slice();
  if (shape.length === 1) return new Float32Array(shape[0]!);
  // Half of what keeps the spread of a row: the residual's part is of its own size at first.
  const spread = 0.5 / Math.sqrt(shape[1]!);
  return random.randn(sizeOf(shape)).map((value) => spread * value);
}
