/** Every call of the library that may take long: ends by its signal, tells its progress, takes a number of threads. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  bakeFiles,
  type Checkpoint,
  type Concept,
  checkScene,
  collectStatistics,
  convertFile,
  defaultBase,
  drawScene,
  type EvaluationModels,
  type ExecutionRequest,
  extractModel,
  fuse,
  inspect,
  lintFiles,
  loadConcept,
  mergeFiles,
  normalScene,
  openCheckpoint,
  openClipModel,
  openEvaluationModels,
  type Progress,
  packageRoot,
  planScene,
  ReportFolder,
  readPictureFolder,
  resizeFile,
  runEvaluation,
  styleMix,
  train,
  verifyFile,
} from '../src/index.ts';
import { ClipEncoder } from '../src/models/clip/clip-encoder.ts';
import { defaultRuntime } from '../src/runtime/default-runtime.ts';

const concepts = path.join(packageRoot(), 'fixtures/tiny-world/concepts');
const smiley = path.join(concepts, 'edlora_smiley.pth');
const input = { path: smiley, strength: 1, textEncoderStrength: null, blockWeights: null };
const clip = path.join(defaultBase(), 'clip');

let folder: string;
let out: string;
let base: Checkpoint;
let concept: Concept;
let models: EvaluationModels;
let count = 0;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-long-'));
  base = await openCheckpoint(defaultBase());
  concept = await loadConcept(smiley);
  models = await openEvaluationModels({ concept: smiley });
  await mergeFiles({ inputs: [input], format: 'ed-lora', out: path.join(folder, 'merged.safetensors') });
  await bakeFiles({ base: defaultBase(), inputs: [input], drop: true, out: path.join(folder, 'tuned') });
});
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => {
  out = path.join(folder, `out-${count++}`);
});

/** What all of them are told. */
interface Told extends ExecutionRequest {
  readonly onProgress: (progress: Progress) => void;
}
const quick = { steps: 1, runs: 1 };
const calls: Readonly<Record<string, (told: Told) => Promise<unknown>>> = {
  inspect: ({ signal, onProgress }) => inspect(smiley, { hash: true, signal, onProgress }),
  convertFile: (told) =>
    convertFile({ input: smiley, format: 'kohya', drop: true, out: `${out}.safetensors`, ...told }),
  mergeFiles: (told) => mergeFiles({ inputs: [input, input], format: 'ed-lora', out: `${out}.pth`, ...told }),
  resizeFile: (told) =>
    resizeFile({
      input: smiley,
      rule: { kind: 'rank' },
      rank: 1,
      drop: true,
      out: `${out}.safetensors`,
      ...told,
    }),
  extractModel: (told) =>
    extractModel({
      tuned: path.join(folder, 'tuned'),
      base: defaultBase(),
      rank: 1,
      out: `${out}.safetensors`,
      ...told,
    }),
  bakeFiles: (told) => bakeFiles({ base: defaultBase(), inputs: [input], drop: true, out, ...told }),
  lintFiles: ({ signal, onProgress }) =>
    lintFiles({ inputs: [input, input], tools: ['kohya-merge', 'peft-linear'], signal, onProgress }),
  verifyFile: (told) =>
    verifyFile(path.join(folder, 'merged.safetensors'), { search: [concepts], rebuild: true, ...told }),
  collectStatistics: (told) =>
    collectStatistics({ base, concepts: [{ concept }], options: quick, out: `${out}.safetensors`, ...told }),
  fuse: (told) =>
    fuse({
      base,
      concepts: [{ concept }],
      options: { ...quick, preserve: { text: 0, cross: 0, spatial: 0 } },
      ...told,
    }),
  drawScene: async (told) => {
    const scene = checkScene({ prompt: 'a red circle', steps: 2 });
    return drawScene(await planScene(normalScene(scene)), { folder: out, ...told });
  },
  train: ({ signal, onProgress }) =>
    train({
      base,
      settings: {
        data: path.join(concepts, 'smiley'),
        token: '<toy>',
        init: 'circle',
        steps: 1,
        batch: 1,
        threads: 1,
      },
      signal,
      onProgress,
    }),
  styleMix: async (told) =>
    styleMix({
      base,
      clip: new ClipEncoder(await openClipModel(clip)),
      a: { prompt: 'a red circle' },
      b: { prompt: 'a blue square' },
      switched: [0, 1],
      sampling: { steps: 1 },
      ...told,
    }),
  runEvaluation: async (told) =>
    runEvaluation({
      base,
      clip: await openClipModel(clip),
      concept: 'smiley',
      references: (await readPictureFolder(path.join(concepts, 'smiley'))).slice(0, 1),
      variants: models.variants.slice(0, 1),
      prompts: ['photo of a <TOK>'],
      samples: 1,
      sampling: { steps: 1 },
      folder: new ReportFolder(out),
      ...told,
    }),
};

/** A runtime that counts what it is asked to load with so many threads. */
function counting(
  threads: number,
  seen: { right: number; wrong: number },
): NonNullable<ExecutionRequest['runtime']> {
  const own = defaultRuntime();
  return {
    traits: own.traits,
    upload: (tensor) => own.upload(tensor),
    dispose: () => own.dispose(),
    load: (graph, use, settings) => {
      seen[settings?.threads === threads ? 'right' : 'wrong']++;
      return own.load(graph, use, settings);
    },
  };
}

/** They run no network, or another job that does. */
const WITHOUT_NETWORKS = new Set([
  'inspect',
  'convertFile',
  'mergeFiles',
  'resizeFile',
  'extractModel',
  'lintFiles',
  'verifyFile',
]);
/** Their settings say the threads. */
const BY_SETTINGS = new Set(['train']);

describe.each(Object.entries(calls))('%s', (name, call) => {
  it('tells its progress up to the end; its networks have the threads that it is given', async () => {
    const told: Progress[] = [];
    const seen = { right: 0, wrong: 0 };
    await call({
      threads: 1,
      runtime: counting(1, seen),
      onProgress: (progress) => told.push({ ...progress }),
    });
    expect(told.length).toBeGreaterThan(0);
    for (const { done, total } of told) expect(done).toBeLessThanOrEqual(total);
    expect(told.at(-1)!.done).toBe(told.at(-1)!.total);
    if (WITHOUT_NETWORKS.has(name) || BY_SETTINGS.has(name)) return;
    expect(seen.right).toBeGreaterThan(0);
    expect(seen.wrong).toBe(0);
  });

  it('throws the reason of its signal', async () => {
    const reason = new Error('enough');
    const controller = new AbortController();
    let steps = 0;
    const running = call({
      signal: controller.signal,
      onProgress: () => {
        steps++;
        controller.abort(reason);
      },
    });
    await expect(running.catch((error) => Promise.reject(error.cause ?? error))).rejects.toBe(reason);
    expect(steps).toBeGreaterThan(0);
  });
});
