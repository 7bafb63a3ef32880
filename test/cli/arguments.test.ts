/** Messages of the library name its own arguments; the command line says them as options that exist. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { ARGUMENTS, asTyped, COMMAND_OF, OPTION_OF, usefulIn } from '../../cli/arguments.ts';
import { loadAllCommands } from '../../cli/commands/index.ts';
import { sayFailure } from '../../cli/failure.ts';
import { globalOptions } from '../../cli/options.ts';
import { UsageError } from '../../src/errors.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';

const root = path.join(packageRoot(), 'src');
/** It is text that other programs' users read, with lines to type; nothing that is thrown. */
const PAGE = 'fusion/port/write-port.ts';
/** Lines of code, without comments. */
const lines = readdirSync(root, { recursive: true })
  .map(String)
  .filter((file) => file.endsWith('.ts') && file !== PAGE)
  .flatMap((file) => {
    const text = readFileSync(path.join(root, file), 'utf8').replace(/\/\*[\s\S]*?\*\//g, '');
    return text.split('\n').map((line) => ({ file, line: line.replace(/(^|\s)\/\/.*$/, '') }));
  });
/** What stands between backticks in texts: escaped in templates, plain in strings. */
const named = lines.flatMap(({ line }) => [
  ...[...line.matchAll(/\\`([^`\\]+)\\`/g)].map(([, text]) => text!),
  ...[...line.matchAll(/'(?:[^'\\]|\\.)*'/g)].flatMap(([text]) =>
    [...text.matchAll(/`([^`]+)`/g)].map(([, name]) => name!),
  ),
]);

describe('messages of the library', () => {
  it('name no options of the command line', () => {
    // A style sheet's variables; the name of another tool's switch.
    const others = /charts\/page\.ts|merge_lora\.py --concat/;
    const naming = lines.filter(({ line }) => /(?<![\w-])--[a-z]/.test(line));
    expect(naming.filter(({ file, line }) => !others.test(file) && !others.test(line))).toEqual([]);
  });

  it('name arguments and calls that the command line knows', () => {
    expect(named.length).toBeGreaterThan(25);
    expect(named.filter((name) => asTyped(`\`${name}\``).startsWith('`'))).toEqual([]);
    const words = new Set(named.map((name) => name.split(':')[0]));
    const known = [...Object.keys(OPTION_OF), ...ARGUMENTS, ...Object.keys(COMMAND_OF)];
    expect(known.filter((name) => !words.has(name))).toEqual([]);
  });

  it('become options and commands that exist', async () => {
    const commands = await loadAllCommands();
    const own = commands.flatMap((command) => Object.keys(command.options));
    const options = new Set([...own, ...Object.keys(globalOptions)]);
    for (const name of [...Object.keys(OPTION_OF), ...ARGUMENTS])
      expect(options).toContain(asTyped(`\`${name}\``).replace('--', ''));
    const verbs = commands.map(({ usage }) => `edlora ${usage.split(' ')[0]}`);
    for (const command of Object.values(COMMAND_OF)) expect(verbs).toContain(command);
  });

  it('are said as they are typed', () => {
    const io = fakeIo();
    const signal = new AbortController().signal;
    const error = new UsageError(
      'a: exists; `force` or `sampleEvery: 2`, not `other` or `renameTokens: <a>=<b>`',
    );
    sayFailure(error, { io, signal, verbose: false });
    expect(io.written.err).toBe(
      'error: a: exists; --force or --sample-every 2, not `other` or --rename <a>=<b>\n',
    );
  });

  it('advise no option that the command lacks', () => {
    const message =
      'a: the word <a> is also in b; rename one with `renameTokens: <a>=<b>`; or `convertFile` a `format: kohya`';
    const without = message.replace('; rename one with `renameTokens: <a>=<b>`', '');
    expect(usefulIn(new Set(['base']), message)).toBe(without);
    expect(usefulIn(new Set(['rename']), message)).toBe(message);
    const io = fakeIo();
    const context = { io, signal: new AbortController().signal, verbose: false, options: new Set(['force']) };
    sayFailure(new UsageError('a: exists; `force`; `rank: 2`'), context);
    expect(io.written.err).toBe('error: a: exists; --force\n');
  });
});
