/** A concept's layer as numbers: its factors in float64 with every scale inside, and the check that they are finite. */
import { FormatError } from '../errors.ts';
import { type RawTensor, readFloat32, readFloat64 } from '../formats/raw-tensor.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { matrix } from '../linalg/matrix.ts';
import { Pace } from '../pace.ts';
import type { Concept, LoraLayer } from './concept.ts';

/**
 * ΔW of one layer at a strength, as factors: up [m, r] carries strength · scale, down is [r, n], for convolutions
 * [r, n · kh · kw] with the kernel's axes joined to the input's.
 */
export function layerDelta(layer: LoraLayer, strength = 1): LowRank {
  const factor = strength * layer.scale;
  const up = readFloat64(layer.up).slice();
  for (let i = 0; i < up.length; i++) up[i]! *= factor;
  const down = readFloat64(layer.down).slice();
  return {
    up: matrix(layer.up.shape[0]!, layer.rank, up),
    down: matrix(layer.rank, down.length / layer.rank, down),
  };
}

/**
 * Read every tensor of a concept and refuse NaN and infinite values.
 * @param pace between the tensors
 * @throws {FormatError} naming the first such tensor and how many there are
 */
export async function checkFinite(concept: Concept, pace: Pace = new Pace()): Promise<void> {
  const bad: string[] = [];
  const check = async (name: string, tensor: RawTensor): Promise<void> => {
    if (!holdsFinite(readFloat32(tensor))) bad.push(name);
    await pace.turn();
  };
  for (const { word, embedding } of concept.tokens) await check(`embedding of ${word}`, embedding);
  for (const [key, { up, down }] of concept.layers) {
    await check(`${key} (up)`, up);
    await check(`${key} (down)`, down);
  }
  if (bad.length > 0) {
    const tensor = bad[0]!;
    const more = bad.length > 1 ? `, and ${bad.length - 1} more tensors do` : '';
    throw new FormatError(
      concept.path,
      `${tensor}: expected finite numbers, holds NaN or infinity${more}; training diverged?`,
      { tensor },
    );
  }
}

function holdsFinite(values: Float32Array): boolean {
  // 0 · value is 0 for finite numbers only.
  let probe = 0;
  for (let i = 0; i < values.length; i++) probe += 0 * values[i]!;
  return probe === 0;
}
