/** Runs on a small base of random weights: every method to a file that loads, resuming to the same numbers, and what is refused. */
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { inspect } from '../../src/concepts/inspect.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { within } from '../../src/models/families/layer-table.ts';
import { packageRoot } from '../../src/package-root.ts';
import { drawScene, planScene } from '../../src/sampling/draw-scene.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import {
  TRAINING_METHOD_NAMES,
  type TrainingInput,
  type TrainingMethodName,
  trainingJsonSchema,
} from '../../src/training/options.ts';
import { stateFileOf, writeTrained } from '../../src/training/output.ts';
import { previousStateFile } from '../../src/training/run-state.ts';
import { train } from '../../src/training/train.ts';
import { SMALL_CONTEXTS, writeSmallBase } from '../support/small-base.ts';
import { vectorsOf } from '../support/tokens.ts';

let folder = '';
let baseFolder = '';
let base: Checkpoint;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-train-'));
  baseFolder = path.join(folder, 'base');
  await writeSmallBase(baseFolder);
  base = await openCheckpoint(baseFolder);
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const data = path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley');
/** Small and quick: pictures of 8 × 8 latent cells. */
const SMALL = { data, steps: 2, batch: 1, threads: 1, resolution: 32, seed: 3 } as const;
const TWO_WORDS = { token: '<new-face1>+<new-face2>', init: '<rand-0.013>+circle' } as const;
const settingsOf = (method: TrainingMethodName): TrainingInput => ({
  ...SMALL,
  method,
  ...(method === 'lora' || method === 'dreambooth-lora'
    ? { prompt: 'photo of a face', captions: 'prompt' }
    : TWO_WORDS),
  ...(method === 'dreambooth-lora' || method === 'custom-diffusion'
    ? {
        classPrompt: 'photo of a circle',
        classData: path.join(packageRoot(), 'fixtures/tiny-world/concepts/bullseye'),
        classImages: 2,
      }
    : {}),
});

describe('every method', () => {
  it.each([...TRAINING_METHOD_NAMES])('%s changes what it says, and its file loads', async (method) => {
    const out = path.join(folder, `${method}.safetensors`);
    const trained = await train({ base, settings: settingsOf(method) });
    const files = await writeTrained(out, trained);
    expect(trained.log).toHaveLength(2);
    expect(trained.log.every(({ loss }) => loss > 0)).toBe(true);
    const concept = await loadConcept(files.concept);
    const deltas = await conceptDeltas(base, concept);
    const words = method.endsWith('lora') && method !== 'ed-lora' ? 0 : 2;
    expect(concept.tokens).toHaveLength(words);
    const changed = [...within('unet', deltas).values()].some(({ up }) => up.data.some((x) => x !== 0));
    expect(changed).toBe(method !== 'textual-inversion' && method !== 'xti');
    expect(within('text_encoder', deltas).size > 0).toBe(method === 'ed-lora' || method === 'lora');
    for (const token of concept.tokens) {
      const { word } = token;
      expect(vectorsOf(token).shape[0], word).toBe(
        method === 'ed-lora' || method === 'xti' ? SMALL_CONTEXTS : 1,
      );
    }
    expect(JSON.parse(readFileSync(files.settings, 'utf8'))).toMatchObject({ method: { name: method } });
    expect(readFileSync(files.plot, 'utf8')).toMatch(/^<svg/);
  });

  /** What each is fused and merged with: a concept with words, and a LoRA without. */
  let other: string;
  let plain: string;
  beforeAll(async () => {
    other = path.join(folder, 'other.safetensors');
    const settings = { ...settingsOf('ed-lora'), token: '<other1>+<other2>', steps: 1 };
    await writeTrained(other, await train({ base, settings }));
    plain = path.join(folder, 'plain.safetensors');
    await writeTrained(plain, await train({ base, settings: { ...settingsOf('lora'), steps: 1 } }));
  }, 120_000);

  it.each([...TRAINING_METHOD_NAMES])(
    'the file of %s goes straight into fuse, merge, sample and inspect',
    async (method) => {
      const file = path.join(folder, `${method}.safetensors`);
      const hasWords = method !== 'lora' && method !== 'dreambooth-lora';
      const hasLayers = method !== 'textual-inversion' && method !== 'xti';
      const shown = await inspect(file);
      expect(shown.tokens).toHaveLength(hasWords ? 2 : 0);
      expect(shown.layers !== null).toBe(hasLayers);

      const fusion = await fuse({
        base,
        concepts: [{ concept: await loadConcept(file) }, { concept: await loadConcept(other) }],
        options: { stages: ['cross'], steps: 1, runs: 1 },
        preserveCaptions: ['a tree'],
      });
      expect(fusion.layers.size).toBe(2 * SMALL_CONTEXTS);
      expect(fusion.vocabulary.tokens).toHaveLength(hasWords ? 4 : 2);

      // A merge knows no base: one vector for all layers becomes one for each of Stable Diffusion's, and stays alone.
      const isUnlayered = method === 'textual-inversion' || method === 'custom-diffusion';
      const partner = isUnlayered ? plain : other;
      const merged = await mergeFiles({
        inputs: [file, partner].map((input) => ({
          path: input,
          strength: 1,
          textEncoderStrength: null,
          blockWeights: null,
        })),
        out: path.join(folder, `${method}-merged.safetensors`),
        format: 'ed-lora',
      });
      expect(merged).toMatchObject({ dropped: [] });
      expect(merged.words).toHaveLength(hasWords && !isUnlayered ? 4 : 2);

      const scene = normalScene(
        {
          base: baseFolder,
          concepts: [file],
          prompt: hasWords ? '<new-face1> <new-face2>' : 'a face',
          steps: 1,
          width: 32,
          height: 32,
        },
        path.resolve,
      );
      const drawn = await drawScene(await planScene(scene), { folder: path.join(folder, `${method}-out`) });
      expect(drawn.pictures).toHaveLength(1);
    },
  );

  it.each([
    [
      'LoHa with convolutions',
      { factors: 'loha', rank: 2, convRank: 2, layers: 'transformer', textLayers: 'transformer' },
    ],
    [
      'DyLoRA with drops',
      { factors: 'dylora', rankDropout: 0.3, moduleDropout: 0.2, kvDrop: 0.5, maxGradNorm: 0.1 },
    ],
    ['patterns', { rankPattern: { attn2: 8, ff: 0 }, alphaPattern: { to_out: 2 }, layers: 'transformer' }],
  ] as [string, Partial<TrainingInput>][])('LoRA as %s', async (_, more) => {
    const trained = await train({ base, settings: { ...settingsOf('lora'), ...more } });
    const out = path.join(folder, 'kinds.safetensors');
    await writeTrained(out, trained);
    const concept = await loadConcept(out);
    const unetDeltas = within('unet', await conceptDeltas(base, concept, { convolutions: true }));
    expect(unetDeltas.size).toBeGreaterThan(0);
    if (more.convRank !== undefined)
      expect([...unetDeltas.keys()].some((name) => name.endsWith('.conv1'))).toBe(true);
    if (more.rankPattern !== undefined) {
      expect(unetDeltas.get('mid_block.attentions.0.transformer_blocks.0.attn2.to_k')!.up.cols).toBe(8);
      expect([...unetDeltas.keys()].some((name) => name.includes('.ff.'))).toBe(false);
    }
  });

  it('Textual Inversion with every variant of the paper', async () => {
    const trained = await train({
      base,
      settings: {
        ...SMALL,
        method: 'textual-inversion',
        token: '<new-face>',
        init: 'circle',
        vectors: 2,
        progressive: true,
        perImageTokens: true,
        classWeight: 0.1,
        templates: 'object',
      },
    });
    expect(trained.tokens.map(({ word }) => word)).toEqual(['<new-face>', '<new-face>_1']);
  });

  it('XTI near the words, mirrored crops in buckets', async () => {
    const settings = {
      ...settingsOf('xti'),
      kdeWeight: 0.01,
      flip: true,
      buckets: true,
      resolution: 64,
      latents: 'mean',
    } as const;
    const trained = await train({ base, settings });
    expect(trained.views).toBe(2 * trained.pictures);
  });
});

describe('a run that is interrupted', () => {
  it('goes on to the same numbers', async () => {
    const settings = {
      ...settingsOf('ed-lora'),
      steps: 4,
      accumulate: 2,
      attentionWeight: 0.01,
      kvDrop: 0.3,
      saveEvery: 1,
    };
    const whole = await train({ base, settings, stateFile: stateFileOf(path.join(folder, 'whole')) });
    const stateFile = stateFileOf(path.join(folder, 'parts'));
    const stop = new AbortController();
    const first = train({
      base,
      settings,
      stateFile,
      signal: stop.signal,
      onProgress: ({ phase, done }) => {
        if (phase === 'training' && done === 2) stop.abort();
      },
    });
    await expect(first).rejects.toThrow();
    const second = await train({ base, settings, stateFile, resume: true });
    expect(second.log.map(({ loss }) => Math.fround(loss))).toEqual(
      whole.log.map(({ loss }) => Math.fround(loss)),
    );
    second.layers.forEach(({ up, down }, i) => {
      expect(up).toEqual(whole.layers[i]!.up);
      expect(down).toEqual(whole.layers[i]!.down);
    });
    second.tokens.forEach((token, i) => {
      expect(readFloat32(vectorsOf(token))).toEqual(readFloat32(vectorsOf(whole.tokens[i]!)));
    });
    await expect(
      train({ base, settings: { ...settings, lrUnet: 1 }, stateFile, resume: true }),
    ).rejects.toThrow(/other settings \(lrUnet\)/);
  });

  it('does not wait for a picture, and says what is kept', async () => {
    const stateFile = path.join(folder, 'pictured.state.safetensors');
    const settings = { ...settingsOf('xti'), steps: 4, sampleEvery: 2 };
    const interruptedAt = (step: number, more: { stateFile?: string } = { stateFile }) => {
      const controller = new AbortController();
      const drawn: number[] = [];
      const running = train({
        base,
        settings,
        ...more,
        signal: controller.signal,
        onProgress: ({ phase, done }) => {
          if (phase === 'training' ? done === step : step === 0) controller.abort(new Error('enough'));
        },
        onSample: (_, at) => {
          drawn.push(at);
        },
      });
      return running.then(
        () => ({ message: 'ended well', drawn }),
        (error: Error) => ({ message: error.message, drawn }),
      );
    };
    expect(await interruptedAt(2)).toEqual({
      message: `interrupted; the state after step 2 is kept in ${stateFile}: \`resume\` goes on from it`,
      drawn: [],
    });
    expect((await openTensorFile(stateFile)).metadata.get('step')).toBe('2');
    expect((await interruptedAt(1, {})).message).toBe(
      'interrupted; nothing is kept of 1 steps: no file for the state was named',
    );
  });

  it('ends when its base changes under it, with what was saved before', async () => {
    const own = path.join(folder, 'own-base');
    cpSync(baseFolder, own, { recursive: true });
    const unet = path.join(own, 'unet/diffusion_pytorch_model.safetensors');
    const stateFile = stateFileOf(path.join(folder, 'moved'));
    const run = train({
      base: await openCheckpoint(own),
      settings: { ...settingsOf('ed-lora'), steps: 4, saveEvery: 1 },
      stateFile,
      onProgress: ({ phase, done }) => {
        if (phase === 'training' && done === 2) truncateSync(unet, 1000);
      },
    });
    await expect(run).rejects.toThrow(/diffusion_pytorch_model\.safetensors: .*changed since it was opened/);
    expect((await openTensorFile(stateFile)).metadata.get('step')).toBe('2');
    expect((await openTensorFile(previousStateFile(stateFile))).metadata.get('step')).toBe('1');
  });

  it('names the step at which numbers stop being finite, and keeps the state before it', async () => {
    const stateFile = stateFileOf(path.join(folder, 'diverged'));
    const settings = {
      ...settingsOf('ed-lora'),
      steps: 6,
      lrUnet: 1e30,
      lrText: 0,
      schedule: 'constant',
      saveEvery: 0,
    } as const;
    await expect(train({ base, settings, stateFile })).rejects.toThrow(
      /^step \d: expected a finite loss and gradient, got .*the state after step \d is kept; lower the learning rates/,
    );
    const state = await openTensorFile(stateFile);
    expect(Number(state.metadata.get('step'))).toBeGreaterThan(0);
  });
});

it('draws and weighs timesteps as it is told', async () => {
  const loss = async (settings: Partial<TrainingInput>): Promise<number> => {
    const { log } = await train({
      base,
      settings: { ...SMALL, ...TWO_WORDS, method: 'xti', steps: 1, batch: 4, ...settings },
    });
    return log[0]!.loss;
  };
  const plain = await loss({});
  expect(await loss({ minSnrGamma: 0.1 })).toBeLessThan(plain);
  // A weight of one for every timestep.
  expect(await loss({ minSnrGamma: 1e9 })).toBeCloseTo(plain, 6);
  expect(Math.abs((await loss({ timesteps: 'stratified' })) - plain)).toBeGreaterThan(1e-3);
});

describe('embeddings', () => {
  it('stop once their mean norm is reached', async () => {
    const settings = { ...settingsOf('xti'), normStop: 1e-3, lrEmbedding: 1 };
    const { log } = await train({ base, settings });
    expect(log[1]!.embeddingNorm).toBe(log[0]!.embeddingNorm);
  });
  it('draw samples on the way', async () => {
    const seen: number[] = [];
    await train({
      base,
      settings: { ...settingsOf('xti'), sampleEvery: 2 },
      onSample: (picture, step) => {
        expect(picture.data).toHaveLength(picture.width * picture.height * 3);
        seen.push(step);
      },
    });
    expect(seen).toEqual([2]);
  });
});

it('draws class pictures that are missing, once', async () => {
  const classData = path.join(folder, 'class');
  const settings = { ...settingsOf('dreambooth-lora'), classData, classImages: 1, seed: 3 };
  const drawn: number[] = [];
  const run = () =>
    train({
      base,
      settings,
      onProgress: ({ phase, done }) => {
        if (phase === 'class pictures') drawn.push(done);
      },
    });
  await run();
  const [first] = readdirSync(classData);
  expect(first).toMatch(/^class-[0-9a-f]{8}-0000\.png$/);
  await run();
  expect(drawn).toEqual([1]);
  // Drawn for another prompt, or from another seed, they are not of this run's class.
  settings.classPrompt = 'photo of a square';
  await run();
  settings.seed++;
  await run();
  expect(drawn).toEqual([1, 1, 1]);
  expect(readdirSync(classData)).toHaveLength(3);
  // A picture that says nothing is somebody's own.
  const own = path.join(folder, 'own-class');
  cpSync(path.join(data, '00.png'), path.join(own, 'photo.png'));
  settings.classData = own;
  await run();
  expect(drawn).toHaveLength(3);
  expect(readdirSync(own)).toEqual(['photo.png']);
});

describe('refuses', () => {
  const refused: [string, Partial<TrainingInput>, RegExp][] = [
    ['an init of several tokens', { init: '<rand-0.01>+photograph' }, /one token, it splits into \d+: /],
    ['an init that is no number', { init: '<rand-x>+circle' }, /<rand-σ>/],
    ['too few inits', { init: 'circle' }, /expected 2 starts/],
    ['a word that exists', { token: 'circle+<b>' }, /token circle: expected a new word/],
    ['captions without the words', { data: 'plain' }, /no caption has <new-face1> <new-face2> or <TOK>/],
    ['no words for a method that trains them', { token: '' }, /trains words/],
    [
      'one word under attention regularisation',
      { token: '<a>', init: 'circle', attentionWeight: 1 },
      /pairs of words/,
    ],
    ['a setting of another method', { vectors: 2 }, /vectors: ED-LoRA/],
    ['class pictures without a prior', { classPrompt: 'x' }, /no prior preservation/],
    ['patterns that match nothing', { rankPattern: { nowhere: 1 } }, /"nowhere"/],
    ['wrong numbers, all at once', { steps: 0, batch: 1.5 }, /steps: .*\nbatch: /],
    [
      'a run that trains nothing',
      { method: 'lora', token: '', init: '', lrUnet: 0, lrText: 0 },
      /nothing is trained/,
    ],
  ];
  it.each(refused)('%s', async (_, more, message) => {
    const plain = path.join(folder, 'plain');
    if (more.data === 'plain') {
      mkdirSync(plain, { recursive: true });
      copyFileSync(path.join(data, '00.png'), path.join(plain, '00.png'));
      writeFileSync(path.join(plain, '00.txt'), 'a face');
    }
    const settings = { ...settingsOf('ed-lora'), ...more, ...(more.data === 'plain' ? { data: plain } : {}) };
    await expect(train({ base, settings })).rejects.toThrow(message);
  });
});

it('publishes the schema of its settings', () => {
  // edlora train --print-schema > docs/train.schema.json
  const published = JSON.parse(readFileSync(path.join(packageRoot(), 'docs/train.schema.json'), 'utf8'));
  expect(published).toEqual(trainingJsonSchema());
});
