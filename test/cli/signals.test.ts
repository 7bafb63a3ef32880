/** The program as a process: signals end jobs in order, and nobody reading is no reason to lose work. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { constants, tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sshsHashes } from '../../src/adapters/metadata.ts';
import { type MergedLayer, writeLora } from '../../src/concepts/lora-file.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readPicture } from '../../src/formats/picture.ts';
import { computedTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { SD15_UNET } from '../../src/models/families/sd1-configs.ts';
import { unetLayers } from '../../src/models/unet/changeable-layers.ts';
import { packageRoot } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { builtProgram } from '../support/built-program.ts';
import { writeRandomConcept } from '../support/random-concept.ts';
import { writeSmallBase } from '../support/small-base.ts';

const root = packageRoot();
const data = path.join(root, 'fixtures/tiny-world/concepts/smiley');
const smiley = path.join(root, 'fixtures/tiny-world/concepts/edlora_smiley.pth');
let folder: string;
let small: string;
let program: string;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-signals-'));
  small = mkdtempSync(path.join(tmpdir(), 'edlora-small-base-'));
  await writeSmallBase(small);
  const toy = path.join(small, 'toy.safetensors');
  await writeRandomConcept(toy, await openCheckpoint(small), { words: ['<random>'], seed: 1 });
  program = builtProgram();
}, 120_000);
afterAll(() => {
  for (const place of [folder, small]) rmSync(place, { recursive: true, force: true });
});
const at = (name: string): string => path.join(folder, name);

const train = (out: string, steps: number, ...more: string[]): string[] => [
  ...[
    'train',
    '--base',
    small,
    '--data',
    data,
    '--resolution',
    '32',
    '--batch',
    '1',
    '--threads',
    '1',
    '--token',
    '<toy>',
  ],
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
  /** From the first signal to the end. */
  readonly elapsedMs: number;
}

/** Start a line, wait until `ready` says so of what it has printed, then send signals. */
async function interrupted(
  argv: readonly string[],
  ready: (out: string, err: string) => boolean,
  signals: readonly NodeJS.Signals[],
  { shell, afterMs = 0 }: { readonly shell?: string; readonly afterMs?: number } = {},
): Promise<Ended> {
  const child: ChildProcess =
    shell === undefined ? spawn(process.execPath, [program, ...argv]) : spawn(shell, argv);
  let [out, err] = ['', ''];
  child.stdout!.on('data', (chunk) => {
    out += chunk;
  });
  child.stderr!.on('data', (chunk) => {
    err += chunk;
  });
  // As a shell reports it: who dies of a signal has that code too.
  const ended = new Promise<number | null>((resolve) =>
    child.on('exit', (code, signal) => resolve(signal === null ? code : 128 + constants.signals[signal])),
  );
  while (!ready(out, err) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 10));
  await new Promise((resolve) => setTimeout(resolve, afterMs));
  const sent = performance.now();
  for (const signal of signals) {
    child.kill(signal);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  const code = await ended;
  return { code, err, elapsedMs: performance.now() - sent };
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
    expect(readFileSync(at('cut.train.json'), 'utf8')).toBe(readFileSync(at('whole.train.json'), 'utf8'));
  });

  const draw = (out: string): string[] => [
    ...['sample', '--base', small, '--prompt', 'a', '--count', '500', '--steps', '2', '--width', '32'],
    ...['--height', '32', '--threads', '1', '--out', out],
  ];

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)(
    'by %s has its exit code, and keeps finished pictures and nothing else',
    async (signal, expected) => {
      const out = at(signal);
      const { code, err } = await interrupted(draw(out), () => existsSync(path.join(out, '0001.png')), [
        signal,
      ]);
      expect(code, err).toBe(expected);
      expect(err).toContain('stopping at the next step');
      expect(err).toMatch(/error: interrupted; \d+ finished pictures are kept in \S+\n$/);
      const names = readdirSync(out).sort();
      expect(names.length).toBeGreaterThanOrEqual(2);
      expect(names.length).toBeLessThan(500);
      expect(names).toEqual(names.map((_, i) => `${String(i).padStart(4, '0')}.png`));
      for (const name of names) expect((await readPicture(path.join(out, name))).width).toBeGreaterThan(0);
    },
  );

  it('removes the folder that a bake was filling', async () => {
    const [base, lora, out] = [at('base'), at('lora.safetensors'), at('baked')];
    cpSync(path.join(root, 'fixtures/tiny-world/model'), base, { recursive: true });
    await convertFile({ input: smiley, out: lora, format: 'kohya', drop: true });
    // 60 million halves beside the UNet's own weights, which bfloat16 wants converted one by one.
    const { tensors } = await openTensorFile(path.join(base, 'unet/diffusion_pytorch_model.safetensors'));
    const zeros = computedTensor('zeros', 'F16', [60, 1_000_000], () => new Uint8Array(1.2e8));
    await writeSafetensors(path.join(base, 'unet/diffusion_pytorch_model.safetensors'), [
      ...tensors.values(),
      zeros,
    ]);
    const line = ['bake', '--base', base, '--loras', lora, '--dtype', 'bf16', '--out', out];
    const filling = (): boolean => hidden(folder).some((name) => existsSync(path.join(folder, name, 'unet')));
    const { code, err } = await interrupted(line, filling, ['SIGINT']);
    expect(code, err).toBe(130);
    expect(err).toContain('interrupted; what was finished is kept, and no half-written file was left');
    expect(existsSync(out)).toBe(false);
    expect(hidden(folder)).toEqual([]);
  }, 20_000);

  it('is heard at once while a network runs', async () => {
    const out = at('long');
    // One pass of this size takes most of a minute; after three seconds it runs.
    const { code, err, elapsedMs } = await interrupted(
      ['sample', '--prompt', 'a', '--width', '1024', '--height', '1024', '--steps', '2', '--out', out],
      () => existsSync(out),
      ['SIGINT'],
      { afterMs: 3000 },
    );
    expect(code, err).toBe(130);
    expect(err).toMatch(/interrupted; no picture was finished yet/);
    expect(elapsedMs).toBeLessThan(15_000);
    expect(hidden(out)).toEqual([]);
  });

  it('by a second Ctrl-C ends at once, and says what stays', async () => {
    const out = at('twice');
    // One step of this size takes longer than the signals are apart.
    const argv = ['sample', '--prompt', 'a', '--width', '768', '--height', '768', '--out', out];
    const { code, err } = await interrupted(argv, () => existsSync(out), ['SIGINT', 'SIGINT']);
    expect(code, err).toBe(130);
    expect(err).toMatch(/stopping at the next step; once more ends at once\n/);
    expect(err).toContain('ended at once; no half-written file was left\n');
    expect(hidden(out)).toEqual([]);
  });

  it('keeps what a fusion has collected, and the same line goes on to the same file', async () => {
    const [cache, other] = [at('cache'), at('other-cache')];
    const line = (out: string, folder: string): string[] => [
      ...['fuse', '--base', small, '--concepts', path.join(small, 'toy.safetensors'), '--steps', '8'],
      ...['--preserve', '0', '--cache', folder, '--out', out],
    ];
    const [cut, whole] = [at('cut-fusion'), at('whole-fusion')];
    const partial = () => existsSync(cache) && readdirSync(cache).some((name) => name.includes('partial'));
    const { code, err } = await interrupted(line(cut, cache), partial, ['SIGTERM']);
    expect(code, err).toBe(143);
    expect(err).toContain('error: interrupted; features collected so far are kept: the same line goes on');
    expect(existsSync(cut)).toBe(false);
    expect(spawnSync(process.execPath, [program, ...line(cut, cache)]).status).toBe(0);
    expect(spawnSync(process.execPath, [program, ...line(whole, other)]).status).toBe(0);
    const lora = (out: string) => readFileSync(path.join(out, 'lora.safetensors'));
    expect(lora(cut).equals(lora(whole))).toBe(true);
  });

  it('leaves nothing of a resized file', async () => {
    const input = at('large.safetensors');
    await largeLora(input);
    const place = at('resized');
    mkdirSync(place);
    const argv = ['resize', input, '--rank', '8', '--out', path.join(place, 'small.safetensors')];
    const { code, err } = await interrupted(argv, (_, said) => said.includes('resizing'), ['SIGHUP']);
    expect(code, err).toBe(129);
    expect(err).toMatch(
      /error: interrupted; what was finished is kept, and no half-written file was left\n$/,
    );
    expect(readdirSync(place)).toEqual([]);
  });

  it('fails, and is not called interrupted, when its state cannot be saved', async () => {
    const out = at('unsaved.safetensors');
    // Files of 8 KiB at most; a state is larger.
    const limited = ['-c', 'ulimit -f 8; exec "$0" "$@"', process.execPath, program];
    const argv = [...limited, ...train(out, 400, '--json')];
    const { code, err } = await interrupted(argv, (text) => stepsIn(text) >= 2, ['SIGINT'], {
      shell: 'bash',
    });
    expect(code, err).toBe(1);
    expect(err).toMatch(/unsaved\.state\.safetensors: cannot be written: /);
    expect(err).not.toContain('interrupted');
    expect(readdirSync(folder).filter((name) => name.includes('unsaved'))).toEqual([]);
  });

  it('by what nobody waited for says so in the same words, and leaves nothing half-written', () => {
    const planted = (thrown: string) => {
      // Once the program listens, and some way into its job.
      const preload = `data:text/javascript,const timer = setInterval(() => {
        if (process.listenerCount('unhandledRejection') === 0) return;
        clearInterval(timer);
        setTimeout(() => { Promise.reject(${thrown}); }, 300);
      }, 10)`;
      const argv = ['--import', preload, program, ...train(at('planted.safetensors'), 100_000, '--quiet')];
      return spawnSync(process.execPath, argv, { encoding: 'utf8' });
    };
    const defect = planted('new TypeError("planted")');
    expect([defect.status, defect.stderr]).toEqual([
      1,
      'error: planted (a defect in edlora; --verbose shows where)\nended at once; no half-written file was left\n',
    ]);
    const system = planted(
      'Object.assign(new Error("x"), { code: "EMFILE", errno: -24, syscall: "open", path: "/disk/a" })',
    );
    expect(system.status).toBe(1);
    expect(system.stderr).toMatch(/^error: \/disk\/a: too many files are open at once/);
    expect(readdirSync(folder).filter((name) => name.includes('planted'))).toEqual([]);
  });
});

/** Long enough to be interrupted: the self-attentions of Stable Diffusion 1.5 at rank 64. */
async function largeLora(file: string): Promise<void> {
  const rank = 64;
  const generator = new TorchGenerator(1);
  const layers = unetLayers(SD15_UNET)
    .filter(({ role }) => role === 'self-attention')
    .map(({ layerName, m, n }): MergedLayer => {
      const [up, down] = [generator.randn(m * rank), generator.randn(rank * n)];
      return { component: 'unet', layerName, up, down, rank, kernel: null };
    });
  await writeLora(file, layers, { naming: 'kohya', tokens: [] });
}

describe('nobody reads what is printed', () => {
  const merge = (out: string): string[] => ['merge', smiley, smiley, '--drop', '--out', out];
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
    const { status, stderr } = shell('"$0" "$@" > /dev/full', ...merge(out), '--json');
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
      const { status, stdout } = shell(`"$0" "$@" ${where}`, ...merge(out));
      expect([status, existsSync(out)], name).toEqual([0, true]);
      expect(stdout).toContain(out);
    }
  });

  it('a reader that stops reading does not hold up a Ctrl-C', async () => {
    const model = path.join(root, 'fixtures/tiny-world/model');
    const argv = ['inspect', ...Array<string>(8).fill(model), '--no-hash', '--json'];
    const child = spawn(process.execPath, [program, ...argv]);
    let err = '';
    child.stderr.on('data', (chunk) => {
      err += chunk;
    });
    // Nobody listens to its output, which is more than a pipe holds.
    await new Promise((resolve) => setTimeout(resolve, 3000));
    expect(child.exitCode).toBeNull();
    // As a shell reports it: who dies of a signal has that code too.
    const ended = new Promise<number | null>((resolve) =>
      child.on('exit', (code, signal) => resolve(signal === null ? code : 128 + constants.signals[signal])),
    );
    child.kill('SIGINT');
    expect(await ended, err).toBe(130);
  });

  it('a closed pipe does not make a wrong file right', () => {
    const [file, wrong] = [at('right.safetensors'), at('wrong.safetensors')];
    spawnSync(process.execPath, [program, ...merge(file), '--quiet']);
    const bytes = readFileSync(file);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(wrong, bytes);
    expect(shell('"$0" "$@" | true', 'verify', file, '--inputs', path.dirname(smiley)).status).toBe(0);
    for (let i = 0; i < 2; i++) {
      const { status, stderr } = shell('"$0" "$@" | true', 'verify', wrong);
      expect(status, stderr).toBe(1);
      expect(stderr).toMatch(/wrong\.safetensors: not as recorded\n$/);
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
