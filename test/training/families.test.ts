/** Training on bases of other families: what is written holds words and layers of every text encoder, and is read again. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { packageRoot } from '../../src/package-root.ts';
import type { TrainingInput } from '../../src/training/options.ts';
import { writeTrained } from '../../src/training/output.ts';
import { train } from '../../src/training/train.ts';
import { familiesPath } from '../support/goldens.ts';
import { scratch } from '../support/scratch.ts';

const SETTINGS = {
  data: path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley'),
  token: '<toy>',
  init: '<rand-0.01>',
  steps: 1,
  batch: 1,
  resolution: 32,
} satisfies Partial<TrainingInput>;

describe.each(['sdxl', 'sd2'])('%s', async (family) => {
  const base = await openCheckpoint(familiesPath(family, 'model'));
  const encoders = [...base.parts.textEncoders.keys()];

  it('ED-LoRA: a vector per cross-attention and text encoder, and layers of all', async () => {
    const trained = await train({ base, settings: { ...SETTINGS, method: 'ed-lora' } });
    const { concept: file } = await writeTrained(scratch('own.safetensors'), trained);
    const concept = await loadConcept(file);
    expect(concept.family).toBe(family === 'sdxl' ? 'sdxl' : concept.family);
    const deltas = await conceptDeltas(base, concept);
    const components = new Set([...deltas.keys()].map((id) => id.split(':')[0]));
    expect([...components].sort()).toEqual([...encoders, 'unet'].sort());
    const [token] = concept.tokens;
    for (const [id, { config }] of base.parts.textEncoders) {
      const vectors = token!.embeddings.get(id)!;
      expect(vectors.shape).toEqual([base.parts.layers.contextCount, config.hiddenSize]);
      expect(readFloat32(vectors)).toEqual(readFloat32(trained.tokens[0]!.embeddings.get(id)!));
    }
  });

  it('Textual Inversion: a vector of each text encoder moves, and is written', async () => {
    const settings = { ...SETTINGS, init: 'a', method: 'textual-inversion', format: 'ed-lora' } as const;
    const trained = await train({ base, settings });
    const { concept: file } = await writeTrained(scratch('word.safetensors'), trained);
    const { tokens } = await loadConcept(file);
    const id = base.tokenizer.encode('a')[1]!;
    for (const [encoder, { weights, config }] of base.parts.textEncoders) {
      const table = readFloat32(weights.get('text_model.embeddings.token_embedding.weight')!);
      const start = table.subarray(id * config.hiddenSize, (id + 1) * config.hiddenSize);
      const vector = readFloat32(tokens[0]!.embeddings.get(encoder)!);
      // Adam's first step moves every number by the learning rate.
      vector.forEach((value, i) => {
        expect(Math.abs(value - start[i]!), `${encoder} ${i}`).toBeGreaterThan(1e-5);
      });
    }
  });
});
