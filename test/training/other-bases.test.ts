/** Bases that are not built as SD 1.5: other numbers of cross-attentions, a scheduler that is not walked here. */
import { copyFileSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { stateFileOf, writeTrained } from '../../src/training/output.ts';
import { train } from '../../src/training/train.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';
import { writeRandomUnet } from '../support/random-unet.ts';
import { vectorsOf } from '../support/tokens.ts';

const scratch = scratchFolder();
const cases = path.join(packageRoot(), 'fixtures/cases/training/sched');
const bk = JSON.parse(readFileSync(path.join(cases, 'bk_base_unet_config.json'), 'utf8')) as object;
const SETTINGS = {
  data: path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley'),
  batch: 1,
  threads: 1,
  resolution: 32,
  token: '<new-face>',
  init: 'circle',
} as const;

it.each([
  ['10 cross-attentions', bk, 10],
  ['none in the middle', { ...bk, mid_block_type: null }, 9],
])('a base with %s trains with pictures on the way, and fuses', async (name, config, contexts) => {
  const folder = scratch(name);
  await writeRandomUnet(defaultBase(), config, folder);
  copyFileSync(
    path.join(cases, 'deis_scheduler_config.json'),
    path.join(folder, 'scheduler', 'scheduler_config.json'),
  );
  const base = await openCheckpoint(folder);
  expect(base.parts.layers.contextCount).toBe(contexts);
  const trained = await train({ base, settings: { ...SETTINGS, method: 'textual-inversion', steps: 1 } });
  expect(trained.tokens).toHaveLength(1);

  const out = scratch(`${name}.safetensors`);
  const seen: number[] = [];
  const withLayers = await train({
    base,
    settings: { ...SETTINGS, method: 'ed-lora', steps: 1, sampleEvery: 1 },
    onSample: (_, step) => void seen.push(step),
  });
  expect(seen).toEqual([1]);
  const { concept: file } = await writeTrained(out, withLayers);
  const concept = await loadConcept(file);
  expect(vectorsOf(concept.tokens[0]!).shape[0]).toBe(contexts);
  const options = { steps: 1, runs: 1, guidanceScale: 1, stages: ['cross'] } as const;
  const fusion = await fuse({ base, concepts: [{ concept }], options, preserveCaptions: [] });
  expect(fusion.layers.size).toBe(2 * contexts);
});

it('a picture that cannot be drawn costs no step', async () => {
  const stateFile = stateFileOf(scratch('kept.safetensors'));
  const settings = { ...SETTINGS, method: 'textual-inversion', steps: 3, sampleEvery: 2 } as const;
  const running = train({
    base: await openCheckpoint(defaultBase()),
    settings,
    stateFile,
    onSample: () => {
      throw new Error('no room for the picture');
    },
  });
  await expect(running).rejects.toThrow('no room for the picture');
  expect((await openTensorFile(stateFile)).metadata.get('step')).toBe('2');
});
