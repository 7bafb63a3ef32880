/** Options have one spelling in every command; those of earlier versions are refused with it. */
import { describe, expect, it } from 'vitest';
import type { Options } from 'yargs';
import { loadAllCommands, loadCommand } from '../../cli/commands/index.ts';
import { RETIRED } from '../../cli/retired.ts';
import { run } from '../../cli/run.ts';
import { fakeIo } from '../support/fake-io.ts';

const cases = RETIRED.flatMap(({ commands, ...old }) => commands.map((verb) => ({ verb, ...old })));

describe('spellings of earlier versions', () => {
  it.each(cases)('$verb --$option $value: $now', async ({ verb, option, value, now }) => {
    for (const words of [[`--${option}`, value ?? 'x'], [`--${option}=${value ?? 'x'}`]]) {
      const io = fakeIo();
      expect(await run([verb, ...words], io)).toBe(2);
      expect(io.written.err).toMatch(`is written ${now} now\n`);
    }
  });

  it.each(cases)('$verb knows $now', async ({ verb, option, value, now }) => {
    const { options } = (await loadCommand(verb))!;
    for (const [, name] of now.matchAll(/--([a-z-]+)/g)) expect(options).toHaveProperty(name!);
    if (value === undefined) expect(options).not.toHaveProperty(option);
  });

  it('are read where they are values, or another command’s own', async () => {
    const io = fakeIo();
    await run(['fuse', '--concepts', 'none.pth', '--', '--stats'], io);
    await run(['eval', '--concept', 'none.pth'], io);
    expect(io.written.err).not.toContain('is written');
  });
});

/** One concept is judged or collected, several are merged or fused: so are their strengths and names, and what speaks for them. */
const ONE_OR_SEVERAL: ReadonlySet<string> = new Set(['strength', 'name', 'prompt', 'fused', 'density']);

describe('options of one name', () => {
  it('take the same kind of value in every command', async () => {
    const kinds = new Map<string, Set<string>>();
    for (const { options } of await loadAllCommands()) {
      for (const [name, { type, array }] of Object.entries(options)) {
        const kind = array === true ? 'several values' : type === 'boolean' ? 'none' : 'one value';
        kinds.set(name, (kinds.get(name) ?? new Set()).add(kind));
      }
    }
    const different = [...kinds].filter(([name, found]) => found.size > 1 && !ONE_OR_SEVERAL.has(name));
    expect(different.map(([name, found]) => `--${name}: ${[...found].join(' and ')}`)).toEqual([]);
  });

  it('spell a choice alike wherever it can be made', async () => {
    const words = (name: string, { choices, describe: text = '' }: Options): string[] =>
      (choices?.map(String) ?? text.match(/[\w-]+/g) ?? []).filter((word) => plain(word) in SPELLINGS[name]!);
    for (const { options } of await loadAllCommands()) {
      for (const name of Object.keys(SPELLINGS)) {
        const option = options[name];
        for (const word of option === undefined ? [] : words(name, option))
          expect(`--${name} ${word}`).toBe(`--${name} ${SPELLINGS[name]![plain(word)]}`);
      }
    }
  });
});

/** Without what spellings differ in. */
const plain = (word: string): string => word.toLowerCase().replaceAll(/[-_]|^fp?(?=\d)/g, '');
const spelled = (...words: string[]): Readonly<Record<string, string>> =>
  Object.fromEntries(words.map((word) => [plain(word), word]));
const SPELLINGS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  format: spelled('kohya', 'diffusers', 'peft', 'ed-lora'),
  dtype: spelled('fp32', 'fp16', 'bf16'),
};
