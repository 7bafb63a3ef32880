/** Statistics in files: found again, resumed, and refused where they are not what they should be. */

import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { MismatchError } from '../../../src/errors.ts';
import { fuse } from '../../../src/fusion/fuse.ts';
import type { Fusion } from '../../../src/fusion/fusion.ts';
import { prepareConcept } from '../../../src/fusion/fusion-concept.ts';
import { DEFAULTS, type FusionOptions } from '../../../src/fusion/options.ts';
import type { FusionProgress } from '../../../src/fusion/report/report.ts';
import type { CollectedUnit } from '../../../src/fusion/statistics/collector.ts';
import { openStatistics, writeStatistics } from '../../../src/fusion/statistics/statistics-file.ts';
import {
  cacheFolder,
  StatisticsStore,
  statisticsBeside,
} from '../../../src/fusion/statistics/statistics-store.ts';
import { toDenseGram } from '../../../src/linalg/gram.ts';
import { ReusedMemory } from '../../../src/linalg/reused-memory.ts';
import type { Checkpoint } from '../../../src/models/checkpoint.ts';
import { defaultRuntime } from '../../../src/runtime/default-runtime.ts';
import { executionContext } from '../../../src/runtime/execution-context.ts';
import type { Runtime } from '../../../src/runtime/runtime.ts';
import { type SmallFusion, smallFusion } from '../../support/small-fusion.ts';

const SCOPES = { text: 'attention', cross: 'attention', spatial: 'attention' } as const;
const OPTIONS: FusionOptions = { ...DEFAULTS, steps: 3, runs: 2 };
const CAPTIONS = ['a tree'];

let base: Checkpoint;
let files: SmallFusion['concepts'];
let folder: string;
beforeAll(async () => {
  ({ base, concepts: files } = await smallFusion());
});
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-statistics-'));
  for (const file of Object.values(files)) copyFileSync(file, path.join(folder, path.basename(file)));
});
const folders: string[] = [];
afterAll(() => {
  for (const made of folders) rmSync(made, { recursive: true, force: true });
});
beforeEach(() => folders.push(folder));

/** The base under another schedule. */
const scheduled = (change: object): Checkpoint => ({
  ...base,
  schedule: { ...base.schedule, config: { ...base.schedule.config, ...change } },
});

const concept = async (name: string) =>
  await prepareConcept(base, { concept: await loadConcept(path.join(folder, `${name}.safetensors`)) });

async function fuseStored(
  names: readonly string[],
  options: Partial<FusionOptions> = {},
): Promise<{ fusion: Fusion; seen: FusionProgress[] }> {
  const concepts = [];
  for (const name of names)
    concepts.push({ concept: await loadConcept(path.join(folder, `${name}.safetensors`)) });
  const seen: FusionProgress[] = [];
  const fusion = await fuse({
    base,
    concepts,
    options: { ...OPTIONS, runs: 1, ...options },
    preserveCaptions: CAPTIONS,
    cacheFolder: path.join(folder, 'cache'),
    onProgress: (progress) => seen.push(progress),
  });
  return { fusion, seen };
}

describe('statistics in files', () => {
  it('read back as they were collected', async () => {
    const store = new StatisticsStore(base, path.join(folder, 'cache'));
    const memory = new StatisticsStore(base, null);
    const stored = await store.concept(await concept('maple'), SCOPES, OPTIONS);
    const kept = await memory.concept(await concept('maple'), SCOPES, OPTIONS);
    for (const stage of ['text', 'cross', 'spatial'] as const) {
      expect([...stored.statistics[stage].inputOf]).toEqual([...kept.statistics[stage].inputOf]);
      expect(stored.statistics[stage].rows.size).toBeGreaterThan(0);
      for (const [input, rows] of kept.statistics[stage].rows) {
        expect(stored.statistics[stage].rows.get(input)).toBe(rows);
        const theirs = stored.statistics[stage].term(input);
        expect(await stored.statistics[stage].termLater(input, new ReusedMemory())).toEqual(theirs);
        expect(toDenseGram(theirs).data, input).toEqual(toDenseGram(kept.statistics[stage].term(input)).data);
      }
    }
  });

  it('make any later fusion run no network, to the same bytes', async () => {
    const first = await fuseStored(['maple', 'river']);
    const again = await fuseStored(['maple', 'river']);
    expect(first.seen.some(({ action }) => action === 'collect')).toBe(true);
    expect(new Set(again.seen.map(({ action }) => action))).toEqual(new Set(['solve']));
    expect(again.seen.at(-1)!.done).toBe(again.seen.at(-1)!.total);
    for (const [key, { delta }] of first.fusion.layers) {
      expect(again.fusion.layers.get(key)!.delta.down.data).toEqual(delta.down.data);
    }
    expect(first.fusion.report.statistics).toEqual(['collected', 'collected']);
    expect(again.fusion.report.statistics.every((origin) => existsSync(origin))).toBe(true);
  });

  it('leave only a new concept to collect', async () => {
    await fuseStored(['maple']);
    const { seen } = await fuseStored(['maple', 'river']);
    const collected = new Set(
      seen.filter(({ action }) => action === 'collect').map(({ subject }) => subject),
    );
    expect(collected).toEqual(new Set(['<river1> <river2>']));
    expect(seen.at(-1)!.done).toBe(seen.at(-1)!.total);
  });

  it('are collected anew for other strengths, steps or prompts', async () => {
    const cache = path.join(folder, 'cache');
    const store = new StatisticsStore(base, cache);
    const maple = await concept('maple');
    await store.concept(maple, SCOPES, OPTIONS);
    for (const [other, options] of [
      [await prepareConcept(base, { concept: maple.concept, unetStrength: 0.5 }), OPTIONS],
      [maple, { ...OPTIONS, steps: 2 }],
      [maple, { ...OPTIONS, promptTemplates: ['{}'] }],
    ] as const) {
      expect((await store.concept(other, SCOPES, options)).fresh).toBe(true);
    }
    expect((await store.concept(maple, SCOPES, OPTIONS)).fresh).toBe(false);
    expect(readdirSync(cache)).toHaveLength(4);
  });

  it('say everything that their numbers depend on: each option, and the schedule of the base', async () => {
    const maple = await concept('maple');
    const of = async (options: FusionOptions, model = base): Promise<string> =>
      JSON.stringify(await new StatisticsStore(model, folder).recipeOf(maple, SCOPES, options));
    const guided: FusionOptions = { ...OPTIONS, guidanceScale: 3, contrast: 2 };
    const known = [await of(guided)];
    for (const change of [
      { steps: 7 },
      { seed: 7 },
      { promptTemplates: ['{}'] },
      { runs: 7 },
      { guidanceScale: 7 },
      { contrast: 7 },
      { size: { width: 64, height: 64 } },
      { size: { width: 64, height: 128 } },
    ] satisfies Partial<FusionOptions>[]) {
      known.push(await of({ ...guided, ...change }));
    }
    expect(new Set(known).size).toBe(known.length);
    // Without guidance there is one picture, and nothing to weigh it against.
    const plain = { ...guided, guidanceScale: 1 };
    expect(await of({ ...plain, contrast: 7 })).toBe(await of(plain));
    expect(await of({ ...guided, guidanceScale: 0.5 })).toBe(await of(plain));

    const withSchedule = (change: object): Promise<string> => of(guided, scheduled(change));
    expect(await withSchedule({})).toBe(known[0]);
    expect(await withSchedule({ beta_end: 0.02 })).not.toBe(known[0]);
    expect(await withSchedule({ prediction_type: 'v_prediction' })).not.toBe(known[0]);
    expect(await withSchedule({ timestep_spacing: 'trailing' })).not.toBe(known[0]);
    // Which class wrote the file, and what only that class reads, is nothing to features.
    expect(await withSchedule({ _class_name: 'DDIMScheduler', clip_sample: true })).toBe(known[0]);
  });

  it('of another contrast or schedule are not used', async () => {
    const cache = path.join(folder, 'cache');
    const maple = await concept('maple');
    const scopes = { text: 'none', cross: 'none', spatial: 'attention' } as const;
    const options: FusionOptions = { ...OPTIONS, steps: 1, runs: 1, guidanceScale: 3, contrast: 2 };
    const store = new StatisticsStore(base, cache);
    expect((await store.concept(maple, scopes, options)).fresh).toBe(true);
    expect((await store.concept(maple, scopes, options)).fresh).toBe(false);
    expect((await store.concept(maple, scopes, { ...options, contrast: 4 })).fresh).toBe(true);
    const other = new StatisticsStore(scheduled({ beta_end: 0.02 }), cache);
    expect((await other.concept(maple, scopes, options)).fresh).toBe(true);
  });

  it('that cover more layers serve as well', async () => {
    const store = new StatisticsStore(base, path.join(folder, 'cache'));
    const maple = await concept('maple');
    await store.concept(maple, { ...SCOPES, spatial: 'linear' }, OPTIONS);
    expect((await store.concept(maple, { ...SCOPES, text: 'none' }, OPTIONS)).fresh).toBe(false);
    expect((await store.concept(maple, { ...SCOPES, text: 'linear' }, OPTIONS)).fresh).toBe(true);
  });
});

describe('a collection that is cut short', () => {
  it.each([1, 2, 4])('after step %i goes on to the same bytes', async (stopAfter) => {
    const maple = await concept('maple');
    const [whole, resumed] = ['whole', 'resumed'].map((name) =>
      path.join(folder, `${name}.stats.safetensors`),
    );
    await new StatisticsStore(base, null).collectInto(whole!, maple, SCOPES, OPTIONS);
    const controller = new AbortController();
    let steps = 0;
    const execution = executionContext({ signal: controller.signal }, ({ stage }: CollectedUnit) => {
      if (stage === 'spatial' && ++steps === stopAfter) controller.abort(new Error('pulled the plug'));
    });
    const stopping = new StatisticsStore(base, null, execution);
    await expect(stopping.collectInto(resumed!, maple, SCOPES, OPTIONS)).rejects.toThrow('pulled the plug');
    expect(existsSync(resumed!)).toBe(false);
    expect(existsSync(path.join(folder, 'resumed.partial.safetensors'))).toBe(true);
    await new StatisticsStore(base, null).collectInto(resumed!, maple, SCOPES, OPTIONS);
    expect(readFileSync(resumed!).equals(readFileSync(whole!))).toBe(true);
    expect(existsSync(path.join(folder, 'resumed.partial.safetensors'))).toBe(false);
  });

  it('keeps all steps that were done when a signal comes in the middle of the next', async () => {
    const maple = await concept('maple');
    const file = path.join(folder, 'middle.safetensors');
    const controller = new AbortController();
    const runtime = defaultRuntime();
    let runs = 0;
    // Everything is counted that runs on a UNet.
    const counting: Runtime = {
      traits: runtime.traits,
      load: async (...given) => {
        const loaded = await runtime.load(...given);
        if (given[1] !== 'every-step') return loaded;
        return {
          dispose: () => loaded.dispose(),
          run: (...feeds) => {
            runs++;
            const result = loaded.run(...feeds);
            if (runs === 3) controller.abort(new Error('stop'));
            return result;
          },
        };
      },
      upload: (tensor) => runtime.upload(tensor),
      dispose: () => runtime.dispose(),
    };
    const collecting = (signal?: AbortSignal) =>
      new StatisticsStore(base, null, executionContext({ runtime: counting, signal })).collectInto(
        file,
        maple,
        SCOPES,
        OPTIONS,
      );
    await expect(collecting(controller.signal)).rejects.toThrow('stop');
    expect(runs).toBe(3);
    await collecting();
    // Each run but the third was made once, and the third was dropped.
    expect(runs).toBe(OPTIONS.steps * OPTIONS.runs + 1);
  });

  it('begins anew where the leftover is of other options', async () => {
    const maple = await concept('maple');
    const file = path.join(folder, 'maple.stats.safetensors');
    const controller = new AbortController();
    const execution = executionContext({ signal: controller.signal }, ({ stage }: CollectedUnit) => {
      if (stage === 'spatial') controller.abort(new Error('stop'));
    });
    const stopping = new StatisticsStore(base, null, execution);
    await expect(stopping.collectInto(file, maple, SCOPES, OPTIONS)).rejects.toThrow('stop');
    await new StatisticsStore(base, null).collectInto(file, maple, SCOPES, { ...OPTIONS, seed: 7 });
    expect((await openStatistics(file)).recipe.options.seed).toBe(7);
  });
});

describe('a file beside the concept', () => {
  const beside = async (options: FusionOptions = OPTIONS): Promise<string> => {
    const maple = await concept('maple');
    const file = statisticsBeside(maple.concept);
    await new StatisticsStore(base, null).collectInto(file, maple, SCOPES, options);
    return file;
  };
  const find = async () =>
    new StatisticsStore(base, path.join(folder, 'cache')).concept(await concept('maple'), SCOPES, OPTIONS);

  it('serves', async () => {
    const file = await beside();
    expect(file).toBe(path.join(folder, 'maple.stats.safetensors'));
    expect(await find()).toMatchObject({ file, fresh: false });
  });

  it('is named and left where it was collected with other options', async () => {
    const file = await beside({ ...OPTIONS, steps: 2 });
    expect(await find()).toMatchObject({ fresh: true, passedOver: file });
  });

  it('is refused when the concept has changed since', async () => {
    const file = await beside();
    copyFileSync(files.river, path.join(folder, 'maple.safetensors'));
    await expect(find()).rejects.toThrow(MismatchError);
    await expect(find()).rejects.toThrow(`${file}: stale: collected from other weights than`);
  });

  it('is refused when it is of another base', async () => {
    const file = await beside();
    const { recipe, statistics } = await openStatistics(file);
    await writeStatistics(file, { ...recipe, base: ['0', '1'] }, statistics);
    await expect(find()).rejects.toThrow(/collected on another base than .*base; collect again/);
  });

  it('is refused when it is damaged, or something else', async () => {
    const file = await beside();
    const bytes = readFileSync(file);
    bytes[bytes.length - 5]! ^= 1;
    writeFileSync(file, bytes);
    await expect(find()).rejects.toThrow(/maple\.stats\.safetensors.*the file is damaged; delete it/);
    copyFileSync(path.join(base.path, 'text_encoder/model.safetensors'), file);
    await expect(find()).rejects.toThrow(/expected statistics, got a safetensors file of another kind/);
  });
});

it('keeps its files where the platform keeps such things', () => {
  expect(cacheFolder({ EDLORA_CACHE: '/own' })).toBe('/own');
  expect(cacheFolder({ XDG_CACHE_HOME: '/xdg' })).toBe(path.join('/xdg', 'edlora'));
  expect(cacheFolder({ LOCALAPPDATA: '/local' }, 'win32')).toBe(path.join('/local', 'edlora', 'cache'));
  expect(cacheFolder({}, 'darwin')).toMatch(/Library[\\/]Caches[\\/]edlora$/);
  expect(cacheFolder({}, 'linux')).toMatch(/\.cache[\\/]edlora$/);
});
