/** An input that is replaced while a fusion runs ends it: its recipe would name a hash of something else than was read. */
import { copyFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { FormatError } from '../../src/errors.ts';
import { hashFile } from '../../src/formats/file-hash.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { writeFusion } from '../../src/fusion/output.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/fusion';
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-changed-'));
  cpSync(goldenPath(FOLDER, 'base_model'), path.join(folder, 'base'), { recursive: true });
});
afterAll(() => rmSync(folder, { recursive: true }));

const concept = (): string => path.join(folder, 'maple.pth');
const unet = (): string => path.join(folder, 'base/unet/diffusion_pytorch_model.safetensors');

/** A fusion of the text stage, which touches no weight of the UNet. */
async function fused(meanwhile: () => void) {
  copyFileSync(goldenPath(FOLDER, 'concepts', 'maple.pth'), concept());
  let done = false;
  return fuse({
    base: await openCheckpoint(path.join(folder, 'base')),
    concepts: [{ concept: await loadConcept(concept()) }],
    options: { stages: ['text'], steps: 1, runs: 1 },
    preserveCaptions: ['a tree'],
    onProgress: () => {
      if (!done) meanwhile();
      done = true;
    },
  });
}

it.each([
  ['a concept', () => copyFileSync(goldenPath(FOLDER, 'concepts', 'river.pth'), concept()), 'maple.pth'],
  ['the base', () => writeFileSync(unet(), readFileSync(unet())), 'diffusion_pytorch_model.safetensors'],
  ['a concept that vanishes', () => rmSync(concept()), 'maple.pth'],
])('%s', async (_, change, name) => {
  const failure = await fused(change).then(
    () => null,
    (error: unknown) => error as FormatError,
  );
  expect(failure).toBeInstanceOf(FormatError);
  expect(failure!.file.endsWith(name)).toBe(true);
  expect(failure!.message).toContain('changed since it was opened');
});

it('so does one that is replaced before the results are written; else the recipe has its hash', async () => {
  const fusion = await fused(() => {});
  const { files } = await writeFusion(fusion, path.join(folder, 'good'));
  const recipe = JSON.parse(
    readFileSync(files.find((file) => file.path.endsWith('recipe.json'))!.path, 'utf8'),
  ) as {
    concepts: { files: { sha256: string }[] }[];
  };
  expect(recipe.concepts[0]!.files[0]!.sha256).toBe(
    await hashFile(goldenPath(FOLDER, 'concepts', 'maple.pth')),
  );
  copyFileSync(goldenPath(FOLDER, 'concepts', 'river.pth'), concept());
  await expect(writeFusion(fusion, path.join(folder, 'bad'))).rejects.toThrow(/maple\.pth: .*changed since/);
  expect(existsSync(path.join(folder, 'bad'))).toBe(false);
});
