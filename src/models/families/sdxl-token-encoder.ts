/**
 * How SDXL reads prompts: the second to last hidden states of two text encoders side by side, without the final norm, and of
 * the one with a projection a vector at the prompt's end (`pooledPosition`), behind norm and projection.
 * Source: diffusers, pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py (`encode_prompt`).
 */
import { float32, type Tensor } from '../../tensor/tensor.ts';
import { encodeText } from '../clip/encode-text.ts';
import { pooledPosition, TokenEmbeddings } from '../clip/text-encoder.ts';
import type { MakeTokenEncoder } from './conditioning.ts';
import type { TextReading } from './family.ts';
import { within } from './layer-table.ts';

export const SDXL_READING: TextReading = { clipSkip: 1, finalNorm: false, pooled: true };

export const sdxlTokenEncoder: MakeTokenEncoder = (
  parts,
  { added, deltas = new Map(), clipSkip = 0, execution } = {},
) => {
  const encoders = [...parts.textEncoders].map(([id, part]) => ({
    part,
    embeddings: new TokenEmbeddings(part.weights, part.config, added?.(id)),
    deltas: within(id, deltas),
  }));
  return {
    encode: async (batch) => {
      const states: Tensor<Float32Array>[] = [];
      let pooled: Tensor<Float32Array> | undefined;
      for (const [i, { part, embeddings, deltas: own }] of encoders.entries()) {
        const ids = batch.map((prompt) => prompt[i]!);
        const pools = part.config.projectionDim !== undefined;
        const pooledAt = pools ? ids.map((list) => pooledPosition(list, part.config.eosTokenId)) : undefined;
        const options = {
          deltas: own,
          ...SDXL_READING,
          clipSkip: SDXL_READING.clipSkip + clipSkip,
          pooledAt,
        };
        const encoded = await encodeText(part, embeddings, ids, options, execution);
        states.push(encoded.hiddenStates);
        pooled ??= encoded.pooled;
      }
      return { states: sideBySide(states), pooled };
    },
  };
};

/** Features [B, T, D_i] of the same positions as [B, T, Σ D_i]. */
function sideBySide(states: readonly Tensor<Float32Array>[]): Tensor<Float32Array> {
  const [batch, tokens] = states[0]!.shape as [number, number, number];
  const widths = states.map(({ shape }) => shape[2]!);
  const width = widths.reduce((sum, own) => sum + own, 0);
  const all = float32([batch, tokens, width]);
  let offset = 0;
  states.forEach(({ data }, i) => {
    const own = widths[i]!;
    for (let row = 0; row < batch * tokens; row++) {
      all.data.set(data.subarray(row * own, (row + 1) * own), row * width + offset);
    }
    offset += own;
  });
  return all;
}
