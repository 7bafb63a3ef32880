/** The program as a process: signals end jobs in order, and nobody reading is no reason to lose work. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sshsHashes } from '../../src/concepts/lora-metadata.ts';
import { computedTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { openTensorFile } from '../../src/formats/tensor-file.ts';
import { convertFile } from '../../src/merging/jobs.ts';
import { packageRoot } from '../../src/package-root.ts';
import { builtProgram } from '../support/built-program.ts';

const root = packageRoot();
const data = path.join(root, 'fixtures/tiny-world/concepts/smiley');
const smiley = path.join(root, 'fixtures/tiny-world/concepts/edlora_smiley.pth');
let folder: string;
let program: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-signals-'));
  program = builtProgram();
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => path.join(folder, name);

const train = (out: string, steps: number, ...more: string[]): string[] => [
  ...['train', '--data', data, '--resolution', '32', '--batch', '1', '--threads', '1', '--token', '<toy>'],
  ...[
    '--init',
    'circle',
    '--rank',
    '1',
    '--steps',
    String(steps),
    '--save-every',
    '100000',
    '--out',
    out,
    ...more,
  ],
];

interface Ended {
  readonly code: number | null;
  readonly err: string;
}

/** Start a line, wait until `ready` says so of what it has printed, then send signals. */
async function interrupted(
  argv: readonly string[],
  ready: (out: string) => boolean,
  signals: readonly NodeJS.Signals[],
): Promise<Ended> {
  const child: ChildProcess = spawn(process.execPath, [program, ...argv]);
  let [out, err] = ['', ''];
  child.stdout!.on('data', (chunk) => {
    out += chunk;
  });
  child.stderr!.on('data', (chunk) => {
    err += chunk;
  });
  const ended = new Promise<number | null>((resolve) => child.on('exit', resolve));
  while (!ready(out) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 10));
  for (const signal of signals) {
    child.kill(signal);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  return { code: await ended, err };
}

const hidden = (place: string): string[] => readdirSync(place).filter((name) => name.startsWith('.'));
const stepsIn = (out: string): number => out.trimEnd().split('\n').length - 1;

describe('a job that is ended', () => {
  it('saves the state of a training, says where, and goes on to the same numbers', async () => {
    const [cut, whole] = [at('cut.safetensors'), at('whole.safetensors')];
    const { code, err } = await interrupted(train(cut, 40, '--json'), (text) => stepsIn(text) >= 3, [
      'SIGINT',
    ]);
    expect(code, err).toBe(130);
    const [, step] = /the state after step (\d+) is kept in \S+\.state\.safetensors: --resume goes on/.exec(
      err,
    )!;
    expect(Number(step)).toBeGreaterThanOrEqual(3);
    expect(Number(step)).toBeLessThan(40);
    expect(readdirSync(folder)).toEqual(['cut.state.safetensors']);
    expect(spawnSync(process.execPath, [program, ...train(cut, 40, '--resume')]).status).toBe(0);
    expect(spawnSync(process.execPath, [program, ...train(whole, 40)]).status).toBe(0);
    expect((await sshsHashes(cut)).modelHash).toBe((await sshsHashes(whole)).modelHash);
  });

  const draw = (out: string): string[] => [
    ...['sample', '--prompt', 'photo of a red circle', '--count', '500', '--steps', '4', '--out', out],
  ];

  it.each([
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('by %s has its exit code, and says what is kept', async (signal, expected) => {
    const out = at(signal);
    const { code, err } = await interrupted(draw(out), () => existsSync(path.join(out, '0001.png')), [
      signal,
    ]);
    expect(code, err).toBe(expected);
    expect(err).toMatch(/error: interrupted; \d+ finished pictures are kept in /);
  });

  it('removes the folder that a bake was filling', async () => {
    const [base, lora, out] = [at('base'), at('lora.safetensors'), at('baked')];
    cpSync(path.join(root, 'fixtures/tiny-world/model'), base, { recursive: true });
    await convertFile({ input: smiley, out: lora, format: 'kohya', drop: true });
    // 150 million halves beside the UNet's own weights, which bfloat16 wants converted one by one.
    const { tensors } = await openTensorFile(path.join(base, 'unet/diffusion_pytorch_model.safetensors'));
    const zeros = computedTensor('zeros', 'F16', [150, 1_000_000], () => new Uint8Array(3e8));
    await writeSafetensors(path.join(base, 'unet/diffusion_pytorch_model.safetensors'), [
      ...tensors.values(),
      zeros,
    ]);
    const line = ['bake', '--base', base, '--lora', lora, '--dtype', 'bf16', '--out', out];
    const filling = (): boolean => hidden(folder).some((name) => existsSync(path.join(folder, name, 'unet')));
    const { code, err } = await interrupted(line, filling, ['SIGINT']);
    expect(code, err).toBe(130);
    expect(err).toContain('interrupted; what was finished is kept, and no half-written file was left');
    expect(existsSync(out)).toBe(false);
    expect(hidden(folder)).toEqual([]);
  }, 20_000);

  it('by a second Ctrl-C ends at once, and says what stays', async () => {
    const out = at('twice');
    // One step of this size takes longer than the signals are apart.
    const argv = [...draw(out), '--width', '768', '--height', '768'];
    const { code, err } = await interrupted(argv, () => existsSync(out), ['SIGINT', 'SIGINT']);
    expect(code, err).toBe(130);
    expect(err).toMatch(/stopping at the next step; once more ends at once\n/);
    expect(err).toContain('ended at once; no half-written file was left\n');
  });
});

describe('nobody reads what is printed', () => {
  const shell = (line: string, ...argv: string[]) =>
    spawnSync('bash', ['-c', `set -o pipefail; ${line}`, process.execPath, program, ...argv], {
      encoding: 'utf8',
    });

  it('a job that writes files goes on, and says that its result was not delivered', () => {
    const out = at('unread.safetensors');
    const { status, stderr } = shell('"$0" "$@" | head -2 > /dev/null', ...train(out, 8, '--json'));
    expect(existsSync(out), stderr).toBe(true);
    expect(status).toBe(1);
    expect(stderr).toContain(
      'standard output: the result could not be delivered: its reader closed it; the files are written',
    );
  });

  it('a full disk behind standard output is an error with a word', () => {
    const out = at('full.safetensors');
    const { status, stderr } = shell('"$0" "$@" > /dev/full', ...train(out, 2, '--json'));
    expect([status, existsSync(out)], stderr).toEqual([1, true]);
    expect(stderr).toContain('could not be delivered: the disk is full');
    const printing = shell('"$0" "$@" > /dev/full', 'inspect', smiley);
    expect(printing.status).toBe(1);
    expect(printing.stderr).toContain('could not be delivered: the disk is full');
  });

  it('an unwritable standard error is no reason to stop', () => {
    for (const [name, where] of [
      ['a', '2> /dev/full'],
      ['b', '2> >(head -c 1 > /dev/null)'],
    ] as const) {
      const out = at(`unseen-${name}.safetensors`);
      const { status, stdout } = shell(`"$0" "$@" ${where}`, ...train(out, 4));
      expect([status, existsSync(out)], name).toEqual([0, true]);
      expect(stdout).toContain('the concept');
    }
  });

  it('what only prints ends quietly when its reader has seen enough, and is never cut short for one that waits', () => {
    const listing = ['inspect', smiley, '--json', '--tensors'];
    const { status, stderr } = shell('"$0" "$@" | head -2 > /dev/null', ...listing);
    expect([status, stderr]).toEqual([0, '']);
    const slow = shell('"$0" "$@" | (sleep 1; cat)', ...listing);
    expect(JSON.parse(slow.stdout)).toMatchObject({ kind: 'concept' });
  });
});
