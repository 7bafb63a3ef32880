import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  defaultPrompts,
  loadPrompts,
  PROMPT_SETS,
  withoutConcept,
  withWords,
} from '../../src/evaluation/prompt-sets.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase } from '../../src/package-root.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'edlora-prompts-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function listed(text: string): Promise<readonly string[]> {
  const file = path.join(folder, 'prompts.txt');
  await writeFile(file, text);
  return loadPrompts(file);
}

describe('shipped sets', () => {
  it.each(Object.entries(PROMPT_SETS))('%s: twenty different prompts with one place each', (_, prompts) => {
    expect(new Set(prompts).size).toBe(20);
    for (const prompt of prompts) expect(prompt.split('<TOK>')).toHaveLength(2);
  });

  it('are loaded by name; the miniature brings its own', async () => {
    expect(await loadPrompts('scene')).toBe(PROMPT_SETS.scene);
    const own = await defaultPrompts(await openCheckpoint(defaultBase()));
    expect(own.length).toBeGreaterThanOrEqual(20);
    expect(own[0]).toBe('photo of a <TOK>');
  });
});

describe('prompt files', () => {
  it('hold one prompt a line, with remarks', async () => {
    expect(await listed('# places\n\n a <TOK> at sea \r\n<TOK>\n')).toEqual(['a <TOK> at sea', '<TOK>']);
  });

  it('are refused without a place, without prompts, or without a file', async () => {
    await expect(listed('a dog\n')).rejects.toThrow('expected <TOK> where the concept goes, got "a dog"');
    await expect(listed('# nothing\n')).rejects.toThrow('got none');
    await expect(loadPrompts('objects')).rejects.toThrow('expected one of object, character, style, scene');
    await expect(loadPrompts(folder)).rejects.toThrow('or a text file');
  });
});

describe('the concept’s place', () => {
  it('takes words, or vanishes with its blanks', () => {
    expect(withWords('a <TOK> and a <TOK>', '<s1> $&')).toBe('a <s1> $& and a <s1> $&');
    expect(withoutConcept('a <TOK> in the snow')).toBe('a in the snow');
    expect(withoutConcept('portrait of <TOK>, studio light')).toBe('portrait of, studio light');
    expect(withoutConcept('<TOK>')).toBe('');
  });
});
