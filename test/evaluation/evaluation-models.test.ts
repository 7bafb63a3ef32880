import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { openEvaluationModels } from '../../src/evaluation/evaluation-models.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { writeFusion } from '../../src/fusion/output.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { within } from '../../src/models/families/layer-table.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';

const file = (name: string): string =>
  path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`);
const root = mkdtempSync(path.join(tmpdir(), 'edlora-models-'));
const fused = path.join(root, 'fused');
beforeAll(async () => {
  const base = await openCheckpoint(defaultBase());
  const concepts = [];
  for (const name of ['smiley', 'bullseye']) concepts.push({ concept: await loadConcept(file(name)) });
  const options = { steps: 1, stages: ['cross'] as const };
  await writeFusion(await fuse({ base, concepts, options }), fused, { checkpoint: true });
});
afterAll(() => rm(root, { recursive: true }));

describe('models of an evaluation', () => {
  it('are the concept, fusions, sums and the base, in this order', async () => {
    const { variants, base, name } = await openEvaluationModels({
      concept: file('smiley'),
      className: 'circle',
      fused: new Map([
        ['fused', fused],
        ['checkpoint', path.join(fused, 'model')],
      ]),
      addends: [file('bullseye')],
      strengths: [0.5, 1],
    });
    expect(name).toBe('edlora_smiley');
    expect(base.path).toBe(path.resolve(defaultBase()));
    expect(variants.map((variant) => [variant.name, variant.words])).toEqual([
      ['single', '<smiley1> <smiley2>'],
      ['fused', '<smiley1> <smiley2>'],
      ['checkpoint', '<smiley1> <smiley2>'],
      ['sum 0.5', '<smiley1> <smiley2>'],
      ['sum 1', '<smiley1> <smiley2>'],
      ['base', 'circle'],
    ]);
    const [single, fusion, checkpoint, half] = variants;
    expect(within('text_encoder', single!.parts!.deltas!).size).toBeGreaterThan(0);
    expect(fusion!.parts!.deltas!.size).toBe(32);
    expect(within('unet', fusion!.parts!.deltas!).size).toBe(32);
    expect(checkpoint!.base!.path).toBe(path.join(fused, 'model'));
    expect(checkpoint!.parts!.deltas!.size).toBe(0);
    expect(half!.description).toBe('2 concepts added, each at strength 0.5');
  });

  it('take the base that is given', async () => {
    const base = defaultBase();
    const models = await openEvaluationModels({
      base,
      prediction: 'v_prediction',
      concept: file('smiley'),
      fused: new Map([['f', fused]]),
    });
    for (const opened of [models.base, models.variants[1]!.base!]) {
      expect(opened.schedule.config.prediction_type).toBe('v_prediction');
    }
    expect(models.variants[1]!.base!.path).toBe(path.resolve(base));
    expect(models.variants).toHaveLength(2);
  });

  it('are refused where words or addends are missing', async () => {
    const sources = { concept: file('checker'), fused: new Map([['fused', fused]]) };
    await expect(openEvaluationModels(sources)).rejects.toThrow('does not know <checker1>, <checker2>');
    const plain = { concept: path.join(fused, 'lora.safetensors') };
    await expect(openEvaluationModels(plain)).rejects.toThrow('say how prompts call it with `words`');
    const named = await openEvaluationModels({ ...plain, words: 'a toy' });
    expect(named.variants[0]!.words).toBe('a toy');
    const smiley = { concept: file('smiley') };
    await expect(openEvaluationModels({ ...smiley, strengths: [1] })).rejects.toThrow('`addends`');
    await expect(openEvaluationModels({ ...smiley, addends: [file('checker')] })).rejects.toThrow(
      '`strengths`',
    );
  });
});
