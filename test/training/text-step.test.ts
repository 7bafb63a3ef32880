import { afterAll, describe, expect, it } from 'vitest';
import { valueBytes } from '../../src/graph/value-bytes.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import { loraDownInput, loraUpInput } from '../../src/models/network.ts';
import { defaultBase } from '../../src/package-root.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { bestSharedPrefix, commonPrefix, type Ids } from '../../src/training/prompt-prefix.ts';
import { buildTextFeatures, promptsTogether } from '../../src/training/text-graph.ts';
import { TextStep } from '../../src/training/text-step.ts';
import { relativeError } from '../support/close.ts';

const base = await openCheckpoint(defaultBase());
const { config, weights } = base.parts.textEncoder;
const width = config.hiddenSize;
const random = new TorchGenerator(5n);
const LAYERS = 4;
const vocabulary = base.tokenizer.vocabSize;
const rows = random.randn(LAYERS * width).map((value) => value * 0.1);
const ranks = new Map([
  ['text_model.encoder.layers.0.self_attn.q_proj', 2],
  ['text_model.encoder.layers.1.self_attn.v_proj', 3],
  ['text_model.encoder.layers.2.mlp.fc2', 2],
]);
const inputs = new Map(
  [...ranks.keys()].map((name) => [name, name.endsWith('fc2') ? config.intermediateSize : width]),
);
const factors: Record<string, Tensor> = {};
for (const [name, rank] of ranks) {
  const n = inputs.get(name)!;
  factors[loraDownInput(name)] = float32(
    [rank, n],
    random.randn(rank * n).map((value) => value * 0.2),
  );
  factors[loraUpInput(name)] = float32(
    [width, rank],
    random.randn(width * rank).map((value) => value * 0.2),
  );
}

const steps: TextStep[] = [];
function textStep(sharedPrefix: number, together = LAYERS): TextStep {
  const step = new TextStep(
    base.parts.textEncoder,
    base.family.base.textReading,
    new TokenEmbeddings(weights, config, rows),
    {
      ranks,
      firstTrainedId: vocabulary,
      trainedRows: LAYERS,
      prompts: together,
      sharedPrefix,
    },
    executionContext({ threads: 1 }),
  );
  steps.push(step);
  return step;
}
afterAll(async () => {
  for (const step of steps) await step.dispose();
});

/** A caption's prompts, one per layer: its placeholder `?` is each layer's own id. */
function layerPrompts(caption: string): Ids[] {
  const [before, after] = caption.split('?') as [string, string];
  const ids = (text: string): number[] => base.tokenizer.encode(text);
  const [start, end] = [base.tokenizer.encodePadded('').ids[0]!, base.tokenizer.encodePadded('').ids[1]!];
  return Array.from({ length: LAYERS }, (_, layer) => {
    const own = [start, ...ids(before), vocabulary + layer, ...ids(after)];
    return [...own, ...Array<number>(config.maxPositions - own.length).fill(end)];
  });
}

const prompts = [
  ...layerPrompts('a photo of a ? on a red background'),
  // Too short for four: this one runs without sharing.
  ...layerPrompts('? on a blue background'),
  ...layerPrompts('a picture of a ?'),
];

describe('prompts that begin alike', () => {
  const seeds = prompts.map((ids) => ({
    ids,
    states: random.randn(config.maxPositions * width),
    pooled: null,
  }));

  it.each([1, 4])(
    'have the same features and gradients when %i positions are computed once',
    async (shared) => {
      const [plain, sharing] = [textStep(0), textStep(shared)];
      const expected = await plain.features(prompts, factors);
      const features = await sharing.features(prompts, factors);
      expect([...features.keys()]).toEqual([...expected.keys()]);
      for (const [ids, values] of expected)
        expect(relativeError(features.get(ids)!.states, values.states)).toBeLessThan(1e-6);

      const reference = await plain.gradients(seeds, factors);
      const gradients = await sharing.gradients(seeds, factors);
      expect(relativeError(gradients.embeddings!, reference.embeddings!)).toBeLessThan(1e-5);
      for (const [layer, { down, up }] of reference.factors) {
        expect(relativeError(gradients.factors.get(layer)!.down, down), layer).toBeLessThan(1e-5);
        expect(relativeError(gradients.factors.get(layer)!.up, up), layer).toBeLessThan(1e-5);
      }
    },
  );
});

describe('prompts of a large text encoder', () => {
  const reading = base.family.base.textReading;

  it('run as many together as memory has room for, in runs of about one size', () => {
    const together = (prompts: number, bytes?: number) =>
      promptsTogether(base.parts.textEncoder, reading, prompts, bytes);
    expect(together(16)).toBe(16);
    const size = { batch: 1, tokens: config.maxPositions };
    const own = valueBytes(buildTextFeatures(base.parts.textEncoder, size, new Map(), reading));
    expect(own).toBeGreaterThan(
      4 * config.maxPositions * config.numLayers * (6 * width + config.intermediateSize),
    );
    expect(together(16, 16 * own)).toBe(16);
    // Two runs, and four of three where the last is not full.
    expect(together(16, 15 * own)).toBe(8);
    expect(together(10, 3 * own)).toBe(3);
    expect(together(16, own / 2)).toBe(1);
  });

  it('have the same features and gradients in other runs', async () => {
    const seeds = prompts.map((ids) => ({
      ids,
      states: random.randn(config.maxPositions * width),
      pooled: null,
    }));
    const reference = await textStep(0).gradients(seeds, factors);
    const expected = await textStep(0).features(prompts, factors);
    for (const together of [1, 5]) {
      const step = textStep(0, together);
      const features = await step.features(prompts, factors);
      for (const [ids, { states }] of expected) {
        expect(relativeError(features.get(ids)!.states, states)).toBeLessThan(1e-6);
      }
      const gradients = await step.gradients(seeds, factors);
      expect(relativeError(gradients.embeddings!, reference.embeddings!)).toBeLessThan(1e-5);
      for (const [layer, { down, up }] of reference.factors) {
        expect(relativeError(gradients.factors.get(layer)!.down, down), layer).toBeLessThan(1e-5);
        expect(relativeError(gradients.factors.get(layer)!.up, up), layer).toBeLessThan(1e-5);
      }
    }
  });
});

describe('the graph of prompts that begin alike', () => {
  it('holds the shared positions once', () => {
    const size = { batch: LAYERS, tokens: 20, sharedPrefix: 5 };
    const { nodes } = buildTextFeatures(
      base.parts.textEncoder,
      size,
      new Map(),
      base.family.base.textReading,
    );
    const projected = nodes
      .filter(({ op }) => op === 'FusedMatMul')
      .map(({ outputs }) => outputs[0]!.shape[1]);
    expect(new Set(projected)).toEqual(new Set([5 + LAYERS * 15]));
  });
  it('is refused where every position would be shared', () => {
    const size = { batch: LAYERS, tokens: 20, sharedPrefix: 20 };
    expect(() =>
      buildTextFeatures(base.parts.textEncoder, size, new Map(), base.family.base.textReading),
    ).toThrow('fewer than 20 tokens, got 20');
  });
});

describe('commonPrefix', () => {
  it('ends where prompts differ, before a trained id, and before the last position', () => {
    expect(
      commonPrefix(
        [
          [1, 2, 3, 4],
          [1, 2, 5, 4],
        ],
        null,
      ),
    ).toBe(2);
    expect(commonPrefix([[1, 2, 900, 4]], 900)).toBe(2);
    expect(commonPrefix([[1, 2, 900, 4]], null)).toBe(3);
    expect(commonPrefix([], null)).toBe(0);
  });
});

describe('bestSharedPrefix', () => {
  it('is the length that saves most over all captions', () => {
    expect(bestSharedPrefix([4, 5, 1])).toBe(4);
    expect(bestSharedPrefix([4, 12, 1])).toBe(12);
  });
  it('is none where little is shared', () => {
    expect(bestSharedPrefix([1, 1, 2])).toBe(0);
    expect(bestSharedPrefix([])).toBe(0);
  });
});
