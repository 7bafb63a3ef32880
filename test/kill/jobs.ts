/** Every command that writes, at the smallest sizes: lines of arguments, and what their results are. */
import { cpSync, mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../../src/package-root.ts';
import type { Blow } from './child.ts';

export interface Job {
  readonly name: string;
  /** Arguments, with the results under this name. The current folder is where results go; inputs lie in `../inputs`. */
  readonly line: (out: string) => readonly string[];
  /** Name of the result, a file or a folder. */
  readonly out: string;
  /** Lines that were run before. */
  readonly before?: readonly (readonly string[])[];
  /** What happened to the last of them. */
  readonly cutShort?: Blow;
  /** The same command with other numbers and the same target: a second run that is not this one. */
  readonly rival?: readonly string[];
  /** Folders that appear as a whole, below the current one. */
  readonly units?: readonly string[];
  /** Files that show how far a run is: any whole state of them is right while it is not at its end. */
  readonly passing?: RegExp;
  /** Kept for the case that another file is damaged: whole, but of any time. */
  readonly spare?: RegExp;
  /** Added to the line, one after the other, where a run is refused because of what an earlier one left. */
  readonly insist?: readonly string[];
  /** Results are numbered on: each run adds its own. */
  readonly numbered?: boolean;
  /** Whether it keeps features in the cache folder. */
  readonly cache?: boolean;
  /** Files of the user's in folders of results. */
  readonly bystanders?: readonly string[];
}

/** Copy what the lines read; the shipped files themselves stay out of it. */
export function copyInputs(folder: string): void {
  const fixtures = path.join(packageRoot(), 'fixtures');
  const put = (from: string, to: string): void =>
    cpSync(path.join(fixtures, from), path.join(folder, to), { recursive: true });
  mkdirSync(folder, { recursive: true });
  put('goldens/tiny-random/model', 'model');
  put('goldens/tiny-random/edlora.pth', 'concept.pth');
  put('goldens/tiny-random/single_file.safetensors', 'single.safetensors');
  put('tiny-world/model', 'world');
  put('tiny-world/concepts/edlora_smiley.pth', 'smiley.pth');
  for (const name of readdirSync(path.join(fixtures, 'tiny-world/concepts/smiley'))) {
    if (/^0[0-2]/.test(name)) put(`tiny-world/concepts/smiley/${name}`, `pictures/${name}`);
  }
}

/** Made once by undisturbed runs, in the folder of inputs. */
export const madeInputs: readonly (readonly string[])[] = [
  ['bake', '--base', 'model', '--loras', 'concept.pth', '--drop', '--out', 'tuned'],
];

const MODEL = ['--base', '../inputs/model'];
const CONCEPT = '../inputs/concept.pth';

const fuse = (out: string, ...more: string[]): string[] => [
  ...['fuse', ...MODEL, '--concepts', CONCEPT, '--steps', '1', '--preserve', '0', '--ridge', '0.01'],
  ...['--out', out, ...more],
];
/** Another strength, other numbers. */
const otherFuse = (...more: string[]): string[] => fuse('out', '--strength', '0.5', ...more);
const inFused = ['out/notes.txt', 'out/pictures/mine.png', 'out/lora.safetensors.bak'];

const collect = (out: string, ...more: string[]): string[] => [
  ...['collect', CONCEPT, ...MODEL, '--steps', '2', '--out', out, ...more],
];

const train = (out: string, ...more: string[]): string[] => [
  ...[
    'train',
    ...MODEL,
    '--data',
    '../inputs/pictures',
    '--resolution',
    '32',
    '--batch',
    '1',
    '--token',
    '<toy>',
  ],
  ...[
    '--init',
    'a',
    '--rank',
    '1',
    '--steps',
    '4',
    '--save-every',
    '1',
    '--threads',
    '1',
    '--out',
    out,
    ...more,
  ],
];

const sample = (out: string, ...more: string[]): string[] => [
  ...[
    'sample',
    ...MODEL,
    '--prompt',
    'a',
    '--width',
    '64',
    '--height',
    '64',
    '--count',
    '2',
    '--out',
    out,
    ...more,
  ],
];

const merge = (out: string, first: string): string[] => [
  ...['merge', CONCEPT, CONCEPT, '--strength', first, '0.25', '--drop', '--out', out],
];
const convert = (out: string, format: string, ...more: string[]): string[] => [
  ...['convert', CONCEPT, out, '--format', format, '--drop', ...more],
];
const resize = (out: string, rank: string): string[] => [
  ...['resize', CONCEPT, '--rank', rank, '--drop', '--out', out],
];
const extract = (out: string, rank: string): string[] => [
  ...['extract', '../inputs/tuned', '../inputs/model', '--rank', rank, '--out', out],
];
const bake = (out: string, base: string, strength: string): string[] => [
  ...[
    'bake',
    '--base',
    `../inputs/${base}`,
    '--loras',
    CONCEPT,
    '--strength',
    strength,
    '--drop',
    '--out',
    out,
  ],
];
const evaluate = (out: string, ...more: string[]): string[] => [
  ...[
    'eval',
    '--base',
    '../inputs/world',
    '--concept',
    '../inputs/smiley.pth',
    '--reference',
    '../inputs/pictures',
  ],
  ...['--count', '2', '--steps', '1', '--no-attention', '--out', out, ...more],
];

const force = ['--force'];
const STATE = /\.state(\.previous)?\.safetensors$/;
const FEATURES = /\.partial\.safetensors$/;

export const jobs: readonly Job[] = [
  {
    name: 'fuse',
    line: fuse,
    out: 'out',
    rival: otherFuse(),
    insist: force,
    cache: true,
    passing: FEATURES,
  },
  {
    name: 'fuse-force',
    line: (out) => fuse(out, ...force),
    out: 'out',
    before: [otherFuse()],
    rival: otherFuse(...force),
    passing: FEATURES,
    bystanders: inFused,
  },
  {
    name: 'fuse-checkpoint',
    line: (out) => fuse(out, '--checkpoint', ...force),
    out: 'out',
    before: [fuse('warm'), otherFuse('--checkpoint')],
    rival: otherFuse('--checkpoint', ...force),
    units: ['out/model'],
    bystanders: inFused,
  },
  {
    name: 'fuse-peft',
    line: (out) => fuse(out, '--format', 'peft', ...force),
    out: 'out',
    before: [fuse('warm'), otherFuse('--format', 'peft')],
    rival: otherFuse('--format', 'peft', ...force),
    units: ['out/lora'],
    bystanders: ['out/notes.txt'],
  },
  {
    name: 'collect',
    line: collect,
    out: 'out.stats.safetensors',
    rival: collect('out.stats.safetensors', '--seed', '7'),
    insist: force,
    passing: FEATURES,
  },
  {
    name: 'train',
    line: train,
    out: 'out.safetensors',
    rival: train('out.safetensors', '--seed', '7'),
    insist: ['--resume', '--force'],
    passing: STATE,
    spare: /\.state\.previous\.safetensors$/,
  },
  {
    name: 'train-resume',
    line: (out) => train(out, '--resume'),
    out: 'out.safetensors',
    before: [train('out.safetensors')],
    cutShort: { at: 'rename:3', how: 'kill' },
    passing: STATE,
    spare: /\.state\.previous\.safetensors$/,
  },
  {
    name: 'sample',
    line: (out) => sample(out, '--steps', '1'),
    out: 'out',
    rival: sample('out', '--steps', '1', '--seed', '7'),
    numbered: true,
    bystanders: ['out/0007.png', 'out/notes.txt'],
  },
  {
    name: 'sample-grid',
    line: (out) => sample(out, '--steps', '2', '--grid', '--preview', '1'),
    out: 'out',
    rival: sample('out', '--steps', '2', '--grid', '--preview', '1', '--seed', '7'),
    numbered: true,
    passing: /preview\.png$/,
    bystanders: ['out/grid-0003.png'],
  },
  {
    name: 'merge',
    line: (out) => merge(out, '0.5'),
    out: 'out.safetensors',
    rival: merge('out.safetensors', '0.75'),
    insist: force,
  },
  {
    name: 'convert-peft',
    line: (out) => convert(out, 'peft'),
    out: 'out',
    rival: convert('out', 'peft', '--dtype', 'fp16'),
    insist: force,
    units: ['out'],
  },
  {
    name: 'convert-peft-force',
    line: (out) => convert(out, 'peft', ...force),
    out: 'out',
    before: [convert('out', 'peft', '--dtype', 'fp16')],
    rival: convert('out', 'peft', '--dtype', 'bf16', ...force),
    units: ['out'],
  },
  {
    name: 'convert-pth',
    line: (out) => convert(out, 'ed-lora', ...force),
    out: 'out.pth',
    before: [convert('out.pth', 'ed-lora', '--dtype', 'fp16')],
    rival: convert('out.pth', 'ed-lora', '--dtype', 'bf16', ...force),
  },
  {
    name: 'convert-safetensors',
    line: (out) => convert(out, 'kohya'),
    out: 'out.safetensors',
    rival: convert('out.safetensors', 'kohya', '--dtype', 'fp16'),
    insist: force,
  },
  {
    name: 'resize',
    line: (out) => resize(out, '1'),
    out: 'out.safetensors',
    rival: resize('out.safetensors', '2'),
    insist: force,
  },
  {
    name: 'extract',
    line: (out) => extract(out, '1'),
    out: 'out.safetensors',
    rival: extract('out.safetensors', '2'),
    insist: force,
  },
  {
    name: 'bake-folder',
    line: (out) => bake(out, 'model', '1'),
    out: 'out',
    rival: bake('out', 'model', '0.5'),
    insist: force,
    units: ['out'],
  },
  {
    name: 'bake-folder-force',
    line: (out) => [...bake(out, 'model', '1'), ...force],
    out: 'out',
    before: [bake('out', 'model', '0.25')],
    rival: [...bake('out', 'model', '0.5'), ...force],
    units: ['out'],
  },
  {
    name: 'bake-file',
    line: (out) => [...bake(out, 'single.safetensors', '1'), ...force],
    out: 'out.safetensors',
    before: [bake('out.safetensors', 'single.safetensors', '0.25')],
    rival: [...bake('out.safetensors', 'single.safetensors', '0.5'), ...force],
  },
  {
    name: 'eval',
    line: evaluate,
    out: 'out',
    rival: evaluate('out', '--seed', '7'),
    insist: force,
  },
];

/** Files in which times and memory stand, without these. */
export function withoutTimes(name: string, bytes: Buffer): Buffer {
  if (name.endsWith('report.json')) {
    const text = bytes
      .toString()
      .replace(/("(?:elapsedMs|collectMs|peakMemoryBytes)": )[\d.e+-]+/g, '$10')
      // Whether features were collected now, or found.
      .replace(/("statistics": )\[[^\]]*\]/g, '$1[]');
    return Buffer.from(text);
  }
  if (name.endsWith('report.html')) {
    const text = bytes
      .toString()
      .replace(/\d+(\.\d+)? (s|MB of memory)\b/g, '')
      .replace(/(scored at) \d+/g, '$1')
      .replace(/>(collected|[^<>]*\.stats\.safetensors)</g, '><');
    return Buffer.from(text);
  }
  return bytes;
}
