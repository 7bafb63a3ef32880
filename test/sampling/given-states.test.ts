/** States in place of a prompt's: those of a text draw that text's picture, wherever a text may stand. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MismatchError, NumericalError } from '../../src/errors.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { encodeText } from '../../src/models/clip/encode-text.ts';
import { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { goldenPath } from '../support/goldens.ts';

let pipeline: Pipeline;
let cat: Tensor<Float32Array>;
beforeAll(async () => {
  const base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
  pipeline = await Pipeline.create(base);
  const { textEncoder } = base.parts;
  const embeddings = new TokenEmbeddings(textEncoder.weights, textEncoder.config);
  const { ids } = base.tokenizer.encodePadded('a cat');
  const { hiddenStates } = await encodeText(textEncoder, embeddings, [ids]);
  cat = float32(hiddenStates.shape.slice(1), hiddenStates.data);
});
afterAll(() => pipeline.dispose());

const draw = async (request: Partial<SampleRequest>): Promise<Float32Array> => {
  const small = { prompt: '', width: 32, height: 32, steps: 1, guidanceScale: 4 };
  const [picture] = await pipeline.sample({ ...small, ...request });
  return picture!.latents.data;
};
const shape = { kind: 'box', box: { top: 0, left: 0, bottom: 1, right: 0.5 } } as const;

describe('states in place of a text', () => {
  it.each<[string, Partial<SampleRequest>, (states: Tensor<Float32Array>) => Partial<SampleRequest>]>([
    ['the prompt', { prompt: 'a cat' }, (states) => ({ prompt: 'is not read', promptStates: states })],
    ['the negative prompt', { negativePrompt: 'a cat' }, (states) => ({ negativeStates: states })],
    [
      'a region’s prompt',
      { regions: [{ prompt: 'a cat', shape }] },
      (states) => ({ regions: [{ prompt: 'is not read', promptStates: states, shape }] }),
    ],
    [
      'a region’s negative prompt, beside a prompt of two windows',
      { regions: [{ prompt: 'dog '.repeat(90), negativePrompt: 'a cat', shape }] },
      (states) => ({ regions: [{ prompt: 'dog '.repeat(90), negativeStates: states, shape }] }),
    ],
    [
      'the prompt of all layers but one',
      { prompt: 'a cat', layerPrompts: new Map([[3, 'a dog']]) },
      (states) => ({ promptStates: states, layerPrompts: new Map([[3, 'a dog']]) }),
    ],
    [
      'the prompt without guidance',
      { prompt: 'a cat', guidanceScale: 1 },
      (states) => ({ promptStates: states, guidanceScale: 1 }),
    ],
  ])('%s', async (_, words, given) => {
    const direct = await draw(words);
    expect(await draw(given(cat))).toBeAllClose(direct, { rtol: 1e-5, atol: 1e-5 });
    expect(direct).not.toEqual(
      await draw({ ...words, prompt: '', negativePrompt: '', regions: [], layerPrompts: new Map() }),
    );
  });

  it('of another size, or not finite, are refused', async () => {
    const [tokens, width] = cat.shape as [number, number];
    const other = float32([tokens, width + 1]);
    await expect(draw({ promptStates: other })).rejects.toThrow(MismatchError);
    await expect(draw({ regions: [{ prompt: '', negativeStates: other, shape }] })).rejects.toThrow(
      /region 1: expected states/,
    );
    const bad = float32(cat.shape, cat.data.slice());
    bad.data[7] = Number.NaN;
    await expect(draw({ negativeStates: bad })).rejects.toThrow(NumericalError);
  });
});
