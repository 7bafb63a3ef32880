/** An input that is replaced while it is merged, converted or baked ends the job: the recipe would name another's hash. */
import { copyFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { resizeFile } from '../../src/merging/jobs/resize-file.ts';
import type { SubjectProgress } from '../../src/progress.ts';
import { goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/fusion';
let folder: string;
let input: string;
let out: string;
const weights = (): string => path.join(folder, 'base/unet/diffusion_pytorch_model.safetensors');
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-changed-'));
  cpSync(goldenPath(FOLDER, 'base_model'), path.join(folder, 'base'), { recursive: true });
});
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => {
  input = path.join(folder, 'maple.pth');
  copyFileSync(goldenPath(FOLDER, 'concepts', 'maple.pth'), input);
  out = path.join(folder, 'out.safetensors');
});

/** At the end of the work, when everything of the file was read. */
const replaced = ({ done, total }: SubjectProgress): void => {
  if (done === total) copyFileSync(goldenPath(FOLDER, 'concepts', 'river.pth'), input);
};
const strength = { strength: 1, textEncoderStrength: null, blockWeights: null };

it.each([
  ['convert', () => convertFile({ input, out, format: 'kohya', onProgress: replaced, drop: true })],
  [
    'resize',
    () =>
      resizeFile({ input, out, rule: { kind: 'rank' }, rank: 1, format: 'ed-lora', onProgress: replaced }),
  ],
  [
    'bake',
    () => {
      // Both layouts write while they read.
      const base = path.join(folder, 'base');
      out = path.join(folder, 'baked');
      let once = false;
      return bakeFiles({
        base,
        inputs: [{ path: input, ...strength }],
        out,
        drop: true,
        onProgress: ({ done, total }) => {
          if (once || done < total / 2) return;
          once = true;
          writeFileSync(weights(), readFileSync(weights()));
        },
      });
    },
  ],
])('%s', async (_, job) => {
  await expect(job()).rejects.toThrow(FormatError);
  expect(existsSync(out)).toBe(false);
});

it('merge hashes what it opened, or nothing', async () => {
  const job = mergeFiles({
    inputs: [{ path: input, ...strength }],
    out,
    format: 'ed-lora',
    onProgress: ({ done }) => {
      if (done === 1) copyFileSync(goldenPath(FOLDER, 'concepts', 'river.pth'), input);
    },
  });
  await expect(job).rejects.toThrow(/maple\.pth: .*changed since it was opened/);
  expect(existsSync(out)).toBe(false);
});
