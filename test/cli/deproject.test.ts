/** `edlora deproject`, and what `sample` draws of it, on the miniature. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { openStates } from '../../src/deprojector/file.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';
import { goldenPath } from '../support/goldens.ts';

const picture = path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley/00.png');
const other = goldenPath('goldens/tiny-random/model');
const folder = mkdtempSync(path.join(tmpdir(), 'edlora-cli-deproject-'));
const file = (name: string): string => path.join(folder, name);
const d = file('d.safetensors');
afterAll(() => rmSync(folder, { recursive: true }));

async function edlora(...argv: string[]) {
  const io = fakeIo();
  const code = await run(argv, io);
  return { code, ...io.written };
}
const WORDS = [
  '--template',
  'photo of a {colour} {shape}',
  '--words',
  'colour=red,green,blue',
  'shape=circle,star',
];
const train = (...more: string[]) =>
  edlora('deproject', 'train', ...WORDS, '--model', 'vicinity-joint', ...more);
const small = [
  '--steps',
  '1',
  '--guidance',
  '4',
  '--width',
  '32',
  '--height',
  '32',
  '--quiet',
  '--no-metadata',
];
let draws = 0;
/** The one picture that a command line draws. */
async function drawn(...argv: string[]): Promise<Buffer> {
  const out = file(`drawn-${draws++}`);
  const { code, err } = await edlora('sample', ...argv, ...small, '--out', out);
  expect(code, err).toBe(0);
  return readFileSync(path.join(out, '0000.png'));
}

beforeAll(async () => {
  const { code, err, out } = await train('--epochs', '2', '--batch', '4', '--out', d);
  expect(code, err).toBe(0);
  expect(out).toMatch(/^vicinity-joint: [\d,]+ numbers from 5 prompts, 4 steps\n/);
  expect(out).toMatch(/on 1 held-out prompts: [\d.]+ behind true states, [\d.]+ behind its own/);
}, 60_000);

describe('deproject train', () => {
  it('writes the deprojector and what belongs to it, and goes on from its state alone', async () => {
    expect(
      readdirSync(folder)
        .filter((name) => name.startsWith('d.'))
        .sort(),
    ).toEqual([
      'd.loss.svg',
      'd.prompts.safetensors',
      'd.safetensors',
      'd.state.safetensors',
      'd.train.json',
    ]);
    const record = JSON.parse(readFileSync(file('d.train.json'), 'utf8'));
    expect(record.settings).toMatchObject({ model: 'vicinity-joint', epochs: 2, batch: 4 });
    expect(record.losses).toHaveLength(4);
    expect(record.heldOut.autoregressive).toHaveLength(76);
    expect(await train('--out', d)).toMatchObject({
      code: 2,
      err: expect.stringMatching(/--resume goes on with it/),
    });
    expect(await train('--epochs', '3', '--batch', '4', '--out', d, '--resume')).toMatchObject({
      code: 2,
      err: expect.stringMatching(/other settings \(epochs\)/),
    });
    const again = await train('--epochs', '2', '--batch', '4', '--out', d, '--resume', '--json');
    expect(again.code, again.err).toBe(0);
    const lines = again.out.trim().split('\n');
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0]!).counts).toEqual({ trained: 5, heldOut: 1, cut: 0 });
  });

  it('says with --dry-run what it would do, and that prompts are cut or there twice', async () => {
    const list = file('list.txt');
    writeFileSync(list, `a cat\na cat\n${'red '.repeat(90)}\n`);
    const argv = [
      'deproject',
      'train',
      '--prompts',
      list,
      '--model',
      'transformer',
      '--out',
      file('none.safetensors'),
    ];
    const { code, out, err } = await edlora(...argv, '--dry-run');
    expect(code, err).toBe(0);
    expect(out).toContain('Would train transformer on 2 prompts');
    expect(err).toMatch(/1 prompts are there twice/);
    expect(err).toMatch(/1 of 2 prompts are longer than 77 tokens/);
    expect(existsSync(file('none.safetensors'))).toBe(false);
    const captions = path.dirname(picture);
    const plan = [
      'deproject',
      'train',
      '--prompts-from-captions',
      captions,
      '--model',
      'transformer',
      '--dry-run',
      '--json',
    ];
    expect(JSON.parse((await edlora(...plan)).out).settings.epochs).toBe(8);
  });

  it('hands every setting on', async () => {
    const settings = {
      vicinity: 2,
      epochs: 3,
      batch: 5,
      lr: 0.01,
      warmup: 4,
      noise: 0.1,
      blur: 0.3,
      rollout: 0.4,
      seed: 9,
    };
    const argv = Object.entries({ ...settings, 'held-out': 0.2, 'save-every': 7 }).flatMap(
      ([name, value]) => [`--${name}`, String(value)],
    );
    const { out, err } = await train(...argv, '--out', file('none.safetensors'), '--dry-run', '--json');
    expect(JSON.parse(out || err).settings).toMatchObject({ ...settings, heldOut: 0.2, saveEvery: 7 });
  });

  it.each<[string, string[], RegExp]>([
    ['no prompts', ['--model', 'transformer'], /expected --prompts/],
    ['no model', WORDS, /expected --model/],
    ['an unknown model', [...WORDS, '--model', 'mlp'], /Choices/],
    ['words that nothing names', [...WORDS, 'size=small', '--model', 'transformer'], /--words size/],
    ['words without a template', ['--words', 'a=b', '--model', 'transformer'], /expected --template/],
    ['one prompt', ['--template', 'a cat', '--model', 'transformer'], /two different ones/],
    ['a wrong figure', [...WORDS, '--model', 'transformer', '--epochs', '0'], /epochs/],
    ['a name without an end', [...WORDS, '--model', 'transformer', '--out', 'd.pth'], /ends in .safetensors/],
    [
      'a base without CLIP',
      [...WORDS, '--model', 'transformer', '--base', other],
      /name the folder of one with --clip/,
    ],
    ['a file', ['x.safetensors', ...WORDS, '--model', 'transformer'], /expected no file/],
  ])('refuses %s', async (_, argv, said) => {
    expect(await edlora('deproject', 'train', ...argv)).toMatchObject({
      code: 2,
      err: expect.stringMatching(said),
    });
  });
});

describe('deproject apply', () => {
  it('writes states, which draw what sample draws of the same mean', async () => {
    const states = file('states.safetensors');
    const parts = ['--text', 'a red object', '--text', 'a star:0.5', '--image', `${picture}:0.3`];
    const { code, out, err } = await edlora('deproject', 'apply', d, ...parts, '--out', states);
    expect(code, err).toBe(0);
    expect(out).toContain('77 × 64 states of "a red object" + 0.5 × "a star" + 0.3 × 00.png');
    expect((await openStates(states)).states.shape).toEqual([77, 64]);
    expect(await edlora('deproject', 'apply', d, ...parts, '--out', states)).toMatchObject({ code: 2 });
    const embedded = ['--embed', 'a red object', '--embed', 'a star:0.5', '--embed-image', `${picture}:0.3`];
    const whole = await drawn('--deprojector', d, ...embedded);
    expect((await drawn('--states', states)).equals(whole)).toBe(true);
    const negative = ['--prompt', 'a star', '--negative-states', states];
    const theirs = [
      '--prompt',
      'a star',
      '--deprojector',
      d,
      ...embedded.map((word) => word.replace('--', '--negative-')),
    ];
    const plain = await drawn('--prompt', 'a star');
    const first = await drawn(...negative);
    expect(first.equals(await drawn(...theirs))).toBe(true);
    expect(first.equals(plain)).toBe(false);
    const region = `<embed:a red object><embed:a star:0.5><embed-image:${picture}:0.3> @ 0,0,0.5,1`;
    const left = await drawn('--prompt', 'a star', '--deprojector', d, '--region', region);
    const scene = file('scene.yaml');
    writeFileSync(scene, `prompt: a star\nregions:\n  - {states: states.safetensors, box: [0, 0, 0.5, 1]}\n`);
    expect((await drawn('--scene', scene)).equals(left)).toBe(true);
    expect(left.equals(plain)).toBe(false);

    const inspected = await edlora('inspect', d, states);
    expect(inspected.out).toContain('kind         deprojector');
    expect(inspected.out).toContain('kind         states of a text encoder');
    expect(inspected.out).not.toContain('note');
  });

  it.each<[string, string[], number, RegExp]>([
    ['nothing to embed', ['deproject', 'apply', d], 2, /expected --text or --image/],
    ['no deprojector', ['deproject', 'apply', '--text', 'a'], 2, /the file of a deprojector/],
    ['another file', ['deproject', 'apply', picture, '--text', 'a'], 3, /./],
    [
      'another encoder',
      ['deproject', 'apply', d, '--text', 'a', '--base', other, '--out', file('x.safetensors')],
      3,
      /text encoder/,
    ],
    [
      'a text beyond 77 tokens',
      ['deproject', 'apply', d, '--text', 'red '.repeat(90), '--out', file('x.safetensors')],
      2,
      /at most 77 tokens/,
    ],
    [
      'nothing that is left',
      ['deproject', 'apply', d, '--text', 'a', '--text', 'a:-1', '--out', file('x.safetensors')],
      2,
      /cancel/,
    ],
    ['a mean without a deprojector', ['sample', '--embed', 'a'], 2, /name its file with --deprojector/],
    [
      'a deprojector without a mean',
      ['sample', '--deprojector', d, '--prompt', 'a'],
      2,
      /give it with --embed/,
    ],
    [
      'a prompt beside a mean',
      ['sample', '--deprojector', d, '--embed', 'a', '--prompt', 'b'],
      2,
      /expected one of/,
    ],
    ['words beside tags', ['sample', '--deprojector', d, '--prompt', 'b <embed:a>'], 2, /words beside them/],
    [
      'a mean for another encoder',
      ['sample', '--base', other, '--deprojector', d, '--embed', 'a', '--dry-run'],
      3,
      /text encoder/,
    ],
    [
      'a concept’s word',
      [
        'sample',
        '--concepts',
        picture.replace('smiley/00.png', 'edlora_smiley.pth'),
        '--deprojector',
        d,
        '--embed',
        'a <smiley1> <smiley2>',
      ],
      2,
      /concept's word/,
    ],
    ['clip skip', ['sample', '--deprojector', d, '--embed', 'a', '--clip-skip', '1'], 2, /all layers/],
    ['states that are none', ['sample', '--states', d], 3, /expected states/],
  ])('refuses %s', async (_, argv, code, said) => {
    const result = await edlora(...argv);
    expect(result.err).toMatch(said);
    expect(result.code).toBe(code);
  });
});
