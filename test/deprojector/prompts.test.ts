/** Where prompts come from. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  captionsOf,
  combinations,
  distinctPrompts,
  readPromptList,
  wordsOf,
} from '../../src/deprojector/prompts.ts';
import { FormatError, UsageError } from '../../src/errors.ts';
import { defaultBase } from '../../src/package-root.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'edlora-prompts-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('prompts', () => {
  it('of a list stand one a line; comments and empty lines are none', async () => {
    const file = path.join(folder, 'list');
    writeFileSync(file, '# my prompts\na cat\r\n\n  a dog  \na cat\n');
    expect(await readPromptList(file)).toEqual(['a cat', 'a dog', 'a cat']);
    await expect(readPromptList(path.join(folder, 'none'))).rejects.toThrow(FormatError);
  });

  it('of the miniature come with it, each once', async () => {
    const prompts = await readPromptList(path.join(defaultBase(), 'deprojector_prompts.txt'));
    expect(prompts).toHaveLength(3000);
    expect(distinctPrompts(prompts)).toEqual(prompts);
  });

  it('are the captions of a folder', async () => {
    writeFileSync(path.join(folder, 'b.txt'), 'a bird\n');
    writeFileSync(path.join(folder, 'a.txt'), 'an ant');
    expect(await captionsOf(folder)).toEqual(['an ant', 'a bird']);
    await expect(captionsOf(path.join(folder, 'b.txt'))).rejects.toThrow(UsageError);
    const empty = mkdtempSync(path.join(folder, 'empty'));
    await expect(captionsOf(empty)).rejects.toThrow(/found none/);
  });

  it('are all combinations of a template’s words', async () => {
    const lists = new Map([
      ['colour', ['red', '$1']],
      ['shape', await wordsOf('circle, star,')],
    ]);
    expect(combinations('a {colour} {shape}, {colour}', lists)).toEqual([
      'a red circle, red',
      'a red star, red',
      'a $1 circle, $1',
      'a $1 star, $1',
    ]);
    expect(combinations('a cat', new Map())).toEqual(['a cat']);
    expect(() => combinations('a {size} {shape}', lists)).toThrow(/words for {size}/);
    expect(() => combinations('a {shape}', lists)).toThrow(/called {colour}/);
    const many = new Map([
      ['a', Array<string>(1001).fill('x')],
      ['b', Array<string>(1000).fill('y')],
    ]);
    expect(() => combinations('{a} {b}', many)).toThrow(/at most 1000000/);
    const file = path.join(folder, 'words');
    writeFileSync(file, 'one\ntwo\n');
    expect(await wordsOf(file)).toEqual(['one', 'two']);
  });

  it('are two different ones at least', () => {
    expect(distinctPrompts(['a', 'b', 'a'])).toEqual(['a', 'b']);
    expect(() => distinctPrompts(['a', 'a'])).toThrow(/got 1/);
    expect(() => distinctPrompts([])).toThrow(UsageError);
  });
});
