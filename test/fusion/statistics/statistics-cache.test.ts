/**
 * The cache under ordinary carelessness: copied, damaged, foreign, read-only, full, and two at once. Networks are replaced
 * by numbers made of the options, so that a wrong file shows.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { EdloraError } from '../../../src/errors.ts';
import { writeSafetensors } from '../../../src/formats/safetensors.ts';
import { type FusionConcept, prepareConcept } from '../../../src/fusion/fusion-concept.ts';
import { type CollectOptions, DEFAULTS } from '../../../src/fusion/options.ts';
import type { SpatialState } from '../../../src/fusion/statistics/collect.ts';
import * as collector from '../../../src/fusion/statistics/collector.ts';
import type { SumState } from '../../../src/fusion/statistics/feature-sums.ts';
import { type StageStatistics, statisticsOf } from '../../../src/fusion/statistics/statistics.ts';
import {
  openPartial,
  openStatistics,
  writePartial,
  writeStatistics,
} from '../../../src/fusion/statistics/statistics-file.ts';
import { statisticsFileName } from '../../../src/fusion/statistics/statistics-recipe.ts';
import { StatisticsStore, statisticsBeside } from '../../../src/fusion/statistics/statistics-store.ts';
import { ownerMark } from '../../../src/io/platform/process-owner.ts';
import * as replacing from '../../../src/io/replace-file.ts';
import { packedLength, packedSymmetric } from '../../../src/linalg/gram.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import type { TextPart } from '../../../src/models/families/model-part.ts';
import { goldenPath } from '../../support/goldens.ts';

vi.mock('../../../src/fusion/statistics/collector.ts', { spy: true });
vi.mock('../../../src/io/replace-file.ts', { spy: true });

const FOLDER = 'goldens-fusion/fusion';
const SCOPES = { text: 'attention', cross: 'none', spatial: 'none' } as const;
const OPTIONS: CollectOptions = { ...DEFAULTS, steps: 3, runs: 2 };

let base: Checkpoint;
let maple: FusionConcept;
let folder: string;
let cache: string;
const folders: string[] = [];
beforeAll(async () => {
  base = await openCheckpoint(goldenPath(FOLDER, 'base_model'));
  maple = await prepareConcept(base, {
    concept: await loadConcept(goldenPath(FOLDER, 'concepts', 'maple.pth')),
  });
});
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-cache-test-'));
  cache = path.join(folder, 'cache');
  folders.push(folder);
  vi.mocked(collector.collectConcept).mockReset().mockImplementation(collectMade);
  vi.mocked(collector.collectPrior)
    .mockReset()
    .mockImplementation(async (own, captions, layers) => made(own, layers, captions.length));
  vi.mocked(replacing.writeFileAtomically).mockReset();
});
afterAll(() => {
  for (const made of folders) rmSync(made, { recursive: true, force: true });
});

/** Statistics with one number throughout. */
function made(own: Checkpoint, layers: collector.StageLayers, value: number) {
  const of = (names: readonly string[], own: ReadonlyMap<string, { readonly n: number }>): StageStatistics =>
    statisticsOf(
      new Map(names.map((name) => [name, name])),
      new Map(names.map((name) => [name, 1])),
      new Map(
        names.map((name) => {
          const size = own.get(name)!.n;
          return [name, packedSymmetric(size, new Float32Array(packedLength(size)).fill(value))];
        }),
      ),
    );
  return {
    text: of(layers.text, own.parts.textEncoder.layers),
    cross: of(layers.cross, own.parts.unet.layers),
    spatial: of(layers.spatial, own.parts.unet.layers),
  };
}

const STATE: SpatialState = {
  runsDone: 1,
  predictions: [Float32Array.of(1, 2)],
  sums: new Map<string, SumState>([
    ['x', { packed: Float64Array.of(1, 2, 3), rows: 5 }],
    ['y', { features: Float32Array.of(1, 2, 3, 4, 5, 6), rows: 2 }],
  ]),
};

/** Says in its numbers which seed it had; keeps one state on the way. */
const collectMade: typeof collector.collectConcept = async (own, _, layers, options, hooks, resumption) => {
  await resumption?.onStep(() => STATE);
  hooks?.signal?.throwIfAborted();
  return made(own, layers, options.seed + 1);
};

function storeIn(place: string, notes: string[] = []): StatisticsStore {
  return new StatisticsStore(base, place, undefined, { onNote: (text) => notes.push(text) });
}
const numberIn = ({ statistics }: { statistics: { text: StageStatistics } }): number => {
  const [input] = statistics.text.rows.keys();
  const term = statistics.text.term(input!);
  return 'packed' in term ? term.packed[0]! : Number.NaN;
};
const lookUp = (store: StatisticsStore, concept = maple, options = OPTIONS) =>
  store.concept(concept, SCOPES, options);

describe('every part of the recipe', () => {
  const strengths = (more: object) => prepareConcept(base, { concept: maple.concept, ...more });
  const withBase = (change: (own: Checkpoint) => Checkpoint) => ({ own: change(base) });
  interface Changed {
    concept?: FusionConcept;
    options?: CollectOptions;
    own?: Checkpoint;
  }
  const others: [string, () => Changed | Promise<Changed>][] = [
    ['steps', () => ({ options: { ...OPTIONS, steps: 4 } })],
    ['seed', () => ({ options: { ...OPTIONS, seed: 1 } })],
    ['runs', () => ({ options: { ...OPTIONS, runs: 1 } })],
    ['guidance', () => ({ options: { ...OPTIONS, guidanceScale: 3 } })],
    ['no guidance', () => ({ options: { ...OPTIONS, guidanceScale: 1 } })],
    ['contrast', () => ({ options: { ...OPTIONS, contrast: 2 } })],
    ['templates', () => ({ options: { ...OPTIONS, promptTemplates: ['a {}'] } })],
    ['order of templates', () => ({ options: { ...OPTIONS, promptTemplates: ['{}', 'photo of a {}'] } })],
    ['size', () => ({ options: { ...OPTIONS, size: { width: 128, height: 64 } } })],
    ['UNet strength', async () => ({ concept: await strengths({ unetStrength: 0.5 }) })],
    ['text strength', async () => ({ concept: await strengths({ textEncoderStrength: 0.5 }) })],
    ['name', async () => ({ concept: await strengths({ name: '<maple2> <maple1>' }) })],
    [
      'scale of a layer',
      () => {
        const [key, layer] = [...maple.concept.layers][0]!;
        const layers = new Map(maple.concept.layers).set(key, { ...layer, scale: 0.5 });
        return { concept: { ...maple, concept: { ...maple.concept, layers } } };
      },
    ],
    [
      'words',
      () => ({
        concept: {
          ...maple,
          concept: {
            ...maple.concept,
            tokens: maple.concept.tokens.map((token) => ({ ...token, word: `${token.word}x` })),
          },
        },
      }),
    ],
    [
      'configuration of the UNet',
      () =>
        withBase((own) => ({
          ...own,
          parts: own.parts.with({
            unet: { ...own.parts.unet, config: { ...own.parts.unet.config, flipSinToCos: false } },
          }),
        })),
    ],
    [
      'configuration of the text encoder',
      () =>
        withBase((own) => ({
          ...own,
          parts: own.parts.with({
            textEncoders: new Map([
              [
                'text_encoder',
                {
                  ...own.parts.textEncoder,
                  config: { ...own.parts.textEncoder.config, layerNormEpsilon: 1e-3 },
                },
              ],
            ]),
          }),
        })),
    ],
    [
      'schedule',
      () =>
        withBase(({ schedule, ...checkpoint }) => ({
          ...checkpoint,
          schedule: { ...schedule, config: { ...schedule.config, beta_end: 0.02 } },
        })),
    ],
    [
      'weights of the concept',
      () => {
        // The same numbers under another hash.
        const file = path.join(folder, 'maple.pth');
        copyFileSync(goldenPath(FOLDER, 'concepts', 'river.pth'), file);
        const concept = maple.concept;
        const moved = [...concept.layers].map(([key, layer]) => {
          const storage = { ...layer.up.storage, range: { file, offset: 0, length: 0 } };
          return [key, { ...layer, up: { ...layer.up, storage } }] as const;
        });
        return { concept: { ...maple, concept: { ...concept, layers: new Map(moved) } } };
      },
    ],
    [
      'weights of the base',
      () => {
        const file = path.join(folder, 'unet.safetensors');
        copyFileSync(goldenPath(FOLDER, 'base_model/text_encoder/model.safetensors'), file);
        return withBase((own) => ({
          ...own,
          parts: own.parts.with({
            unet: { ...own.parts.unet, file: { ...own.parts.unet.file, path: file, tensors: new Map() } },
          }),
        }));
      },
    ],
    [
      'tokenizer',
      () =>
        withBase((own) => {
          const [[id, part]] = [...own.parts.textEncoders] as [[string, TextPart]];
          const tokenizer = part.tokenizer.withAddedTokens(['hoto']);
          return { ...own, parts: own.parts.with({ textEncoders: new Map([[id, { ...part, tokenizer }]]) }) };
        }),
    ],
  ];

  it.each(others)('%s changes the name, and a file copied there is not used', async (_, change) => {
    const { concept = maple, options = OPTIONS, own = base } = await change();
    const wanted = await lookUp(storeIn(cache));
    const notes: string[] = [];
    const other = new StatisticsStore(own, cache, undefined, { onNote: (text) => notes.push(text) });
    const name = statisticsFileName(await other.recipeOf(concept, SCOPES, options));
    expect(name).not.toBe(path.basename(wanted.file!));
    copyFileSync(wanted.file!, path.join(cache, name));
    const found = await other.concept(concept, SCOPES, options);
    expect(found).toMatchObject({ fresh: true, file: path.join(cache, name) });
    expect(notes).toEqual([
      `${path.join(cache, name)}: cannot be used (collected in another way than its name says); set aside as ${name}.damaged, collected again`,
    ]);
    expect(existsSync(path.join(cache, `${name}.damaged`))).toBe(true);
    expect((await other.concept(concept, SCOPES, options)).fresh).toBe(false);
  });

  it('counts for the base too', async () => {
    const store = storeIn(cache);
    const names = new Set<string>();
    for (const [captions, options] of [
      [['a tree'], OPTIONS],
      [['a house'], OPTIONS],
      [['a tree'], { ...OPTIONS, steps: 4 }],
      [['a tree'], { ...OPTIONS, guidanceScale: 3 }],
      [['a tree'], { ...OPTIONS, seed: 2 }],
    ] as const) {
      names.add((await store.prior(captions, SCOPES, options)).file!);
    }
    expect(names.size).toBe(5);
    // What only concepts see does not.
    const found = await store.prior(['a tree'], SCOPES, { ...OPTIONS, runs: 5, contrast: 9 });
    expect(found.fresh).toBe(false);
  });
});

describe('a damaged file of the cache', () => {
  const damages: [string, (file: string) => void][] = [
    ['a bit of its numbers', (file) => flip(file, -5)],
    ['a bit of its header', (file) => flip(file, readFileSync(file).indexOf('"seed":0') + 7)],
    ['its end', (file) => truncateSync(file, 1000)],
    ['everything', (file) => truncateSync(file, 0)],
    ['its kind', (file) => writeFileSync(file, '<html>')],
    [
      'its being a file',
      (file) => {
        rmSync(file);
        mkdirSync(file);
      },
    ],
  ];
  function flip(file: string, at: number): void {
    const bytes = readFileSync(file);
    bytes[at < 0 ? bytes.length + at : at]! ^= 1;
    writeFileSync(file, bytes);
  }

  it.each(damages)('that lost %s is set aside, said, and collected again', async (_, damage) => {
    const first = await lookUp(storeIn(cache));
    const whole = readFileSync(first.file!);
    damage(first.file!);
    const notes: string[] = [];
    const again = await lookUp(storeIn(cache, notes));
    expect(again).toMatchObject({ fresh: true, file: first.file });
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(/: cannot be used \(.*\); set aside as .*\.damaged, collected again$/);
    expect(readFileSync(first.file!).equals(whole)).toBe(true);
    expect(existsSync(`${first.file}.damaged`)).toBe(true);
    damage(first.file!);
    await lookUp(storeIn(cache));
    expect(existsSync(`${first.file}.damaged-2`)).toBe(true);
  });

  it('of an earlier version is one; beside a concept it is left alone', async () => {
    const first = await lookUp(storeIn(cache));
    const { recipe, statistics } = await openStatistics(first.file!);
    await writeStatistics(first.file!, { ...recipe, version: 1 as 2 }, statistics);
    const notes: string[] = [];
    expect(await lookUp(storeIn(cache, notes))).toMatchObject({ fresh: true });
    expect(notes[0]).toContain('expected statistics of version 2, got 1');

    const own = { ...maple, concept: { ...maple.concept, path: path.join(folder, 'maple.pth') } };
    const beside = statisticsBeside(own.concept);
    await writeStatistics(beside, { ...recipe, version: 1 as 2 }, statistics);
    const bytes = readFileSync(beside);
    expect(await lookUp(storeIn(cache), own)).toMatchObject({ file: first.file, passedOver: beside });
    expect(readFileSync(beside).equals(bytes)).toBe(true);
  });
});

describe('a cache that cannot be written', () => {
  it('because a file stands in its place is said once, and the result is the same', async () => {
    writeFileSync(cache, '');
    const notes: string[] = [];
    const store = storeIn(cache, notes);
    const found = await lookUp(store);
    expect(found).toMatchObject({ fresh: true, file: null });
    expect(numberIn(found)).toBe(1);
    await store.prior(['a tree'], SCOPES, OPTIONS);
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(/cannot be written: .*; statistics are kept in memory only/);
  });

  it('because the disk is full, likewise; what is there is still found', async () => {
    const kept = await lookUp(storeIn(cache));
    vi.mocked(replacing.writeFileAtomically).mockImplementation(async (file) => {
      throw new EdloraError(`${file}: cannot be written: the disk is full`, {
        cause: Object.assign(new Error(), { code: 'ENOSPC' }),
      });
    });
    const notes: string[] = [];
    const store = storeIn(cache, notes);
    const found = await lookUp(store, maple, { ...OPTIONS, seed: 4 });
    expect(found).toMatchObject({ fresh: true, file: null });
    expect(numberIn(found)).toBe(5);
    expect(notes[0]).toMatch(/the disk is full; .* is collected without keeping its state/);
    expect(notes[1]).toMatch(/the disk is full; statistics are kept in memory only/);
    expect(await lookUp(store)).toMatchObject({ fresh: false, file: kept.file });
    const target = path.join(folder, 'own.stats.safetensors');
    await expect(store.collectInto(target, maple, SCOPES, OPTIONS)).rejects.toThrow('the disk is full');
  });
});

describe('two collections of one recipe', () => {
  const child = async <T>(work: (other: ChildProcess) => Promise<T>): Promise<T> => {
    const other = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
    try {
      return await work(other);
    } finally {
      other.kill('SIGKILL');
    }
  };
  const gone = (other: ChildProcess): Promise<void> =>
    new Promise((resolve) => {
      other.once('exit', () => resolve());
      other.kill('SIGKILL');
    });
  const partialOf = (owner: string): string => path.join(folder, `maple.${owner}-0-0.partial.safetensors`);
  const target = () => path.join(folder, 'maple.stats.safetensors');
  const resumed = async (notes: string[] = []): Promise<SpatialState | null | undefined> => {
    let state: SpatialState | null | undefined;
    vi.mocked(collector.collectConcept).mockImplementation(async (...args) => {
      state = args[5]?.state;
      return collectMade(...args);
    });
    await storeIn(cache, notes).collectInto(target(), maple, SCOPES, OPTIONS);
    return state;
  };
  const recipe = () => storeIn(cache).recipeOf(maple, SCOPES, OPTIONS);

  it('at once write states of their own, and both end with the right bytes', async () => {
    const states = new Set<string>();
    let waiting = 0;
    let release = (): void => {};
    const both = new Promise<void>((resolve) => {
      release = resolve;
    });
    vi.mocked(collector.collectConcept).mockImplementation(async (...args) => {
      await args[5]?.onStep(() => STATE);
      for (const name of readdirSync(cache)) if (name.includes('.partial.')) states.add(name);
      if (++waiting === 2) release();
      await both;
      return collectMade(...args);
    });
    const [a, b] = await Promise.all([lookUp(storeIn(cache)), lookUp(storeIn(cache))]);
    expect([a.file, b.file].filter((file) => file !== null).length).toBe(2);
    expect(states.size).toBe(2);
    expect([numberIn(a), numberIn(b)]).toEqual([1, 1]);
    expect(readdirSync(cache)).toEqual([path.basename(a.file!)]);
  });

  it('leave alone what a living process writes, and take over what a dead one left', async () => {
    await child(async (other) => {
      const file = partialOf(ownerMark(other.pid!));
      await writePartial(file, await recipe(), STATE);
      const before = readFileSync(file);
      expect(await resumed()).toBeNull();
      expect(readFileSync(file).equals(before)).toBe(true);
      rmSync(target());
      await gone(other);
      expect(await resumed()).toEqual(STATE);
      expect(existsSync(file)).toBe(false);
    });
  });

  it('take over the furthest state; a name without a process is one too', async () => {
    await writePartial(path.join(folder, 'maple.partial.safetensors'), await recipe(), STATE);
    await child(async (other) => {
      const file = partialOf(ownerMark(other.pid!));
      await gone(other);
      await writePartial(file, await recipe(), { ...STATE, runsDone: 2, predictions: [] });
    });
    expect(await resumed()).toMatchObject({ runsDone: 2 });
    expect(readdirSync(folder).filter((name) => name.includes('partial'))).toEqual([]);
  });

  it('set a damaged state aside, and one with other options, and say so', async () => {
    const plain = path.join(folder, 'maple.partial.safetensors');
    await writePartial(plain, await recipe(), STATE);
    const bytes = readFileSync(plain);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(plain, bytes);
    const notes: string[] = [];
    expect(await resumed(notes)).toBeNull();
    expect(readFileSync(`${plain}.damaged`).equals(bytes)).toBe(true);
    expect(notes[0]).toMatch(/damaged \(expected what was collected.*set aside as maple\.partial/);
    const other = await storeIn(cache).recipeOf(maple, SCOPES, { ...OPTIONS, seed: 8 });
    await writePartial(plain, other, STATE);
    rmSync(target());
    expect(await resumed(notes)).toBeNull();
    expect(notes[1]).toMatch(/of a collection with other options: set aside as/);
    expect(await openPartial(`${plain}.damaged-2`, other)).toEqual(STATE);
  });

  it('do not go on with sums of an earlier version in float32', async () => {
    const plain = path.join(folder, 'maple.partial.safetensors');
    await writeSafetensors(plain, [], { 'edlora.partial_statistics': '{}' });
    const notes: string[] = [];
    expect(await resumed(notes)).toBeNull();
    expect(notes[0]).toMatch(
      /unfinished collection, expected sums in float64, got those of an earlier version/,
    );
  });
});

describe('a file that statistics are read from', () => {
  it('stays the one that was opened when another takes its name', async () => {
    const found = await lookUp(storeIn(cache));
    const other = await lookUp(storeIn(cache), maple, { ...OPTIONS, seed: 6 });
    renameSync(other.file!, found.file!);
    expect(numberIn(found)).toBe(1);
    rmSync(found.file!);
    expect(numberIn(found)).toBe(1);
  });

  it('is refused when somebody writes into it', async () => {
    const found = await lookUp(storeIn(cache));
    const bytes = readFileSync(found.file!);
    writeFileSync(found.file!, bytes.fill(7, bytes.length - 100));
    expect(() => numberIn(found)).toThrow(/changed since it was opened/);
  });
});
