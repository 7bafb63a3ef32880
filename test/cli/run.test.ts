/** Command lines parsed in-process: help, mistakes, exit codes. */
import { describe, expect, it } from 'vitest';
import { loadAllCommands } from '../../cli/commands/index.ts';
import { exitCodeOf } from '../../cli/failure.ts';
import { run } from '../../cli/run.ts';
import { wantsColour } from '../../cli/terminal/io.ts';
import { EdloraError, FormatError, InterruptedError, MismatchError, UsageError } from '../../src/errors.ts';
import { toolVersion } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';

async function line(...argv: string[]) {
  const io = fakeIo();
  return { code: await run(argv, io), ...io.written };
}

describe('help', () => {
  it('lists every command', async () => {
    const { code, out } = await line('--help');
    expect(code).toBe(0);
    for (const { usage } of await loadAllCommands()) expect(out).toContain(`edlora ${usage}`);
  });

  it('of each command shows its examples whole and fits 80 columns elsewhere', async () => {
    for (const command of await loadAllCommands()) {
      const { code, out } = await line(command.usage.split(' ')[0]!, '--help');
      expect(code).toBe(0);
      for (const [example] of command.examples) expect(out).toContain(`\n  ${example}\n`);
      const long = out.split('\n').filter((text) => [...text].length > 80 && !text.startsWith('  edlora '));
      expect(long).toEqual([]);
    }
  });

  it('has what a base predicts wherever a base can be a single file', async () => {
    const options = (await loadAllCommands()).flatMap(({ usage, options }) =>
      'base-config' in options ? [[usage.split(' ')[0]!, options.prediction?.choices] as const] : [],
    );
    expect(options.map(([name]) => name).sort()).toEqual([
      'collect',
      'deproject',
      'eval',
      'fuse',
      'port',
      'sample',
      'train',
    ]);
    for (const [name, choices] of options)
      expect(choices, name).toEqual(['epsilon', 'v_prediction', 'sample']);
  });

  it('speaks of the program that was called', async () => {
    const io = fakeIo();
    expect(await run(['--help'], io, { program: 'fuse' })).toBe(0);
    expect(io.written.out).toMatch(/^fuse\n/);
    expect(io.written.out).not.toContain('edlora fuse');
  });

  it('prints the version', async () => {
    expect(await line('--version')).toMatchObject({ code: 0, out: `${toolVersion()}\n` });
  });

  it('without a command shows help and fails as a usage mistake', async () => {
    expect(await line()).toMatchObject({ code: 2 });
  });
});

describe('mistakes', () => {
  it.each([
    [['fuze'], /unknown command; did you mean "fuse"\?/],
    [['fuse', '--concpts', 'a.pth'], /unknown option "concpts"; did you mean --concepts\?/],
    [['fuse'], /expected --concepts with at least one file/],
    [
      ['fuse', '--concepts', 'a.pth', '--ridge', 'txt=1'],
      /--ridge: unknown stage "txt"; did you mean "text"\?/,
    ],
    [
      ['fuse', '--concepts', 'a.pth', '--preserve', 'text=much'],
      /--preserve text: expected a number, got "much"/,
    ],
    [
      ['fuse', '--concepts', 'a.pth', '--stages', 'cros'],
      /--stages: unknown stage "cros"; did you mean "cross"\?/,
    ],
    [['fuse', '--concepts', 'a.pth', '--steps', 'ten'], /--steps: expected a number, got "ten"/],
    [['fuse', '--concepts', 'a.pth', '--format', 'webui'], /format/],
    [['fuse', '--concepts', 'a.pth', '--stages', 'text,text'], /--stages: text given twice/],
    [['fuse', '--concepts', 'a.pth', '--out', 'x', '--out', 'y'], /--out: expected one value/],
    [['fuse', '--concepts', 'a.pth', '--ridge', '-1'], /ridge text: expected a number ≥ 0 or auto, got -1/],
    [['fuse', '--concepts', 'a.pth', '--steps', '0'], /steps: expected a whole number/],
    [['fuse', '--concepts', 'a.pth', '--rename', 'a'], /--rename: expected old=new, got "a"/],
    [
      ['convert', 'a.pth', 'b.safetensors', 'c.safetensors'],
      /"c\.safetensors" is one too many; expected edlora convert <in> <out>/,
    ],
    [['fuse', 'a.pth', 'b.pth'], /"a\.pth" stands alone; files of concepts come after --concepts/],
    [['inspect'], /Not enough non-option arguments/],
  ])('%j exit 2 with one line', async (argv, message) => {
    const { code, out, err } = await line(...argv);
    expect(code).toBe(2);
    expect(out).toBe('');
    expect(err).toMatch(/^error: .+\n$/);
    expect(err).toMatch(message);
  });

  it('show the stack only when asked', async () => {
    expect((await line('fuse', '--concepts', 'nowhere.pth')).err).toBe(
      'error: nowhere.pth: no such file or folder\n',
    );
    expect((await line('fuse', '--concepts', 'nowhere.pth', '--verbose')).err).toContain('    at ');
  });
});

describe('exit codes', () => {
  it('follow the kind of error', () => {
    const { signal } = new AbortController();
    expect(exitCodeOf(new UsageError('x'), signal)).toBe(2);
    expect(exitCodeOf(new FormatError('f', 'x'), signal)).toBe(3);
    expect(exitCodeOf(new MismatchError('x'), signal)).toBe(3);
    expect(exitCodeOf(new EdloraError('x'), signal)).toBe(1);
  });

  it('are those of a signal only for what the signal ended', () => {
    const reason = Object.assign(new Error('got SIGTERM'), { exitCode: 143 });
    const signal = AbortSignal.abort(reason);
    expect(exitCodeOf(reason, signal)).toBe(143);
    expect(exitCodeOf(new InterruptedError('kept', { cause: reason }), signal)).toBe(143);
    expect(exitCodeOf(new EdloraError('state: the disk is full'), signal)).toBe(1);
    expect(exitCodeOf(new TypeError('x is undefined'), signal)).toBe(1);
    const ownReason = AbortSignal.abort();
    expect(exitCodeOf(ownReason.reason, ownReason)).toBe(130);
  });
});

describe('colours', () => {
  it.each([
    [[], {}, true, true],
    [[], {}, false, false],
    [[], { NO_COLOR: '1' }, true, false],
    [[], { NO_COLOR: '' }, true, true],
    [[], { FORCE_COLOR: '1' }, false, true],
    [[], { FORCE_COLOR: '0' }, true, false],
    [[], { TERM: 'dumb' }, true, false],
    [['--no-color'], { FORCE_COLOR: '1' }, true, false],
  ] as const)('%j, %j, terminal %s: %s', (argv, env, terminal, wanted) => {
    expect(wantsColour(argv, env, terminal)).toBe(wanted);
  });
});
