import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import {
  defaultCaptions,
  denoisedCaptions,
  readCaptions,
  withEmptyPrompt,
} from '../../src/fusion/captions.ts';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import { scratch } from '../support/scratch.ts';

function listed(text: string): string {
  const file = scratch('captions.txt');
  writeFileSync(file, text);
  return file;
}

describe('a list of captions', () => {
  it('is read line by line, without blanks and remarks', async () => {
    expect(await readCaptions(listed('# those below\n a cat \r\n\n  # no\na dog'))).toEqual([
      'a cat',
      'a dog',
    ]);
  });

  it('has one at least, ten thousand at most, in a mebibyte', async () => {
    await expect(readCaptions(listed('# none\n\n'))).rejects.toThrow(/one a line, got none/);
    expect(await readCaptions(listed('a\n'.repeat(10_000)))).toHaveLength(10_000);
    await expect(readCaptions(listed('a\n'.repeat(10_001)))).rejects.toThrow(
      'expected at most 10000 captions, got 10001',
    );
    await expect(readCaptions(listed('a'.repeat(2 ** 20 + 1)))).rejects.toThrow(FormatError);
    expect(await readCaptions(listed('a'.repeat(2 ** 20)))).toHaveLength(1);
  });

  it('is the base’s own where it has one in its folder, else the one that comes along', async () => {
    const folder = scratch('base');
    mkdirSync(folder);
    const base = { path: folder, layout: 'diffusers' } as Checkpoint;
    const shipped = await defaultCaptions(base);
    expect(shipped.length).toBeGreaterThan(10);
    copyFileSync(listed('own caption'), path.join(folder, 'preservation_captions.txt'));
    expect(await defaultCaptions(base)).toEqual(['own caption']);
    expect(await defaultCaptions({ ...base, layout: 'single-file' } as Checkpoint)).toEqual(shipped);
  });
});

it('the empty prompt is among them, and each once', () => {
  expect(withEmptyPrompt(['a', 'b', 'a'])).toEqual(['a', 'b', '']);
  expect(withEmptyPrompt(['', 'a'])).toEqual(['', 'a']);
});

it('those that guide denoising are spread evenly, seven and the empty one', () => {
  const all = Array.from({ length: 14 }, (_, i) => `${i}`);
  expect(denoisedCaptions(['', ...all])).toEqual(['0', '2', '4', '6', '8', '10', '12', '']);
  expect(denoisedCaptions(all.slice(0, 3))).toEqual(['0', '1', '2', '']);
  expect(denoisedCaptions(all, 3)).toEqual(['0', '7', '']);
  expect(denoisedCaptions([])).toEqual(['']);
});
