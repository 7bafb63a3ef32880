import { beforeAll, describe, expect, it } from 'vitest';
import { lowRank } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { encodeText } from '../../src/models/clip/encode-text.ts';
import { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import { defaultBase } from '../../src/package-root.ts';

let base: Checkpoint;
beforeAll(async () => {
  base = await openCheckpoint(defaultBase());
});

describe('layers that are left out at the end', () => {
  it('take their changes with them', async () => {
    const { textEncoder } = base.parts;
    const embeddings = new TokenEmbeddings(textEncoder.weights, textEncoder.config);
    const ids = [base.tokenizer.encode('a circle')];
    const { hiddenSize: n, numLayers } = textEncoder.config;
    const changeOf = (layer: number) =>
      new Map([
        [
          `text_model.encoder.layers.${layer}.self_attn.out_proj`,
          lowRank(matrix(n, 1, new Float64Array(n).fill(1)), matrix(1, n, new Float64Array(n).fill(1))),
        ],
      ]);
    const states = async (options: Parameters<typeof encodeText>[3]): Promise<Float32Array> =>
      (await encodeText(textEncoder, embeddings, ids, options)).hiddenStates.data;
    const plain = await states({ clipSkip: 1 });
    expect(await states({ clipSkip: 1, deltas: changeOf(numLayers - 1) })).toEqual(plain);
    expect(await states({ clipSkip: 1, deltas: changeOf(numLayers - 2) })).not.toEqual(plain);
    await expect(states({ clipSkip: 1, deltas: changeOf(numLayers) })).rejects.toThrow('layers asked for');
  });
});
