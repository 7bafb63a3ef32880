/** Captions longer than the text encoder sees at once are trained whole, in windows, as prompts are drawn. */

import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { type StepBatch, TrainingStep } from '../../src/training/step.ts';
import { train } from '../../src/training/train.ts';
import { vectorsOf } from '../support/tokens.ts';

let folder = '';
let base: Checkpoint;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-long-'));
  base = await openCheckpoint(defaultBase());
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const picture = path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley/00.png');
const words = Array.from({ length: 90 }, (_, i) => ['red', 'blue', 'green'][i % 3]).join(' ');

describe('a caption of 90 words before the concept', () => {
  it.each(['textual-inversion', 'ed-lora'] as const)('trains the word of %s', async (method) => {
    const data = path.join(folder, method);
    // A short caption beside it shares the batch.
    for (const name of ['00', '01']) cpSync(picture, path.join(data, `${name}.png`));
    writeFileSync(path.join(data, '00.txt'), `${words} <TOK>`);
    writeFileSync(path.join(data, '01.txt'), 'a circle');
    const settings = {
      method,
      data,
      token: '<long>',
      init: 'circle',
      steps: 2,
      batch: 2,
      resolution: 32,
      threads: 1,
    };
    const rate = { lrEmbedding: 0.01, lrText: 0, lrUnet: 0, warmup: 0 };
    const trained = await train({ base, settings: { ...settings, ...rate } });
    const [token] = trained.tokens;
    const start = readFloat32(
      base.parts.textEncoder.weights.get('text_model.embeddings.token_embedding.weight')!,
    );
    const { hiddenSize } = base.parts.textEncoder.config;
    const circle = base.tokenizer.encode('circle')[1]!;
    const initial = start.subarray(circle * hiddenSize, (circle + 1) * hiddenSize);
    expect(token!.word).toBe('<long>');
    // Adam moves every number of an embedding that has a gradient, and none of one without.
    const moved = readFloat32(vectorsOf(token!)).subarray(0, hiddenSize);
    expect(Math.min(...moved.map((value, i) => Math.abs(value - initial[i]!)))).toBeGreaterThan(1e-4);
  });

  it('has the slope of its loss as gradient', async () => {
    const { tokenizer, parts } = base;
    const { textEncoder, unet } = parts;
    const id = tokenizer.vocabSize;
    const prompt = [...tokenizer.encodeWindows(words, textEncoder.config.maxPositions)];
    prompt[textEncoder.config.maxPositions + 20] = id;
    const random = new TorchGenerator(4n);
    const { hiddenSize } = textEncoder.config;
    const row = random.randn(hiddenSize).map((value) => value * 0.1);
    const [latentHeight, latentWidth] = [8, 8];
    const size = unet.config.inChannels * latentHeight * latentWidth;
    const batch: StepBatch = {
      latentHeight,
      latentWidth,
      noisy: random.randn(size),
      target: random.randn(size),
      timesteps: [300],
      lossWeights: new Float32Array(latentHeight * latentWidth).fill(1 / size),
      prompts: [[[prompt]]],
    };
    const step = new TrainingStep(
      base,
      new Map([['text_encoder', new TokenEmbeddings(textEncoder.weights, textEncoder.config, row)]]),
      1,
      {
        ranks: new Map(),
        firstTrainedId: id,
        layerwise: false,
        sharedPrefix: 0,
        attention: null,
        attentionWeight: 0,
        detachFirstToken: false,
        checkpointBlocks: false,
      },
      executionContext({ threads: 1 }),
    );
    try {
      const { embeddings } = await step.run(batch, new Map());
      const direction = random.randn(hiddenSize);
      const lossAt = async (away: number): Promise<number> => {
        const kept = row.slice();
        row.forEach((value, i) => {
          row[i] = value + away * direction[i]!;
        });
        const { loss } = await step.run(batch, new Map());
        row.set(kept);
        return loss;
      };
      const slope = ((await lossAt(0.01)) - (await lossAt(-0.01))) / 0.02;
      const gradient = embeddings
        .get('text_encoder')!
        .reduce((sum, value, i) => sum + value * direction[i]!, 0);
      expect(Math.abs(gradient)).toBeGreaterThan(1e-5);
      expect(gradient / slope).toBeCloseTo(1, 1);
    } finally {
      await step.dispose();
    }
  });
});
