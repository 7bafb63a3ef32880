/** The pipeline's promises that no golden states, on the miniature with random weights. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os, { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MismatchError, UsageError } from '../../src/errors.ts';
import { encodePng } from '../../src/formats/png.ts';
import { openT2iAdapter } from '../../src/models/adapter/open.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { openControlNet } from '../../src/models/controlnet/open.ts';
import { defaultBase } from '../../src/package-root.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { LatentCodec, ramp, tileStarts } from '../../src/sampling/latent-codec.ts';
import { layerGroups, parseStyleMix } from '../../src/sampling/layer-groups.ts';
import { openSceneModel } from '../../src/sampling/model-source.ts';
import { readPictureScene, recipeTexts } from '../../src/sampling/picture-recipe.ts';
import { PromptEncoder } from '../../src/sampling/prompt-encoder.ts';
import type { Region } from '../../src/sampling/region.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { prepareScene } from '../../src/sampling/scene-request.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import { goldenPath } from '../support/goldens.ts';
import { sideBySide, squareOf } from '../support/squares.ts';

const model = goldenPath('goldens/tiny-random/model');
const folder = mkdtempSync(path.join(tmpdir(), 'edlora-sample-'));
let base: Checkpoint;
let pipeline: Pipeline;
beforeAll(async () => {
  base = await openCheckpoint(model);
  pipeline = await Pipeline.create(base);
});
afterAll(async () => {
  await pipeline.dispose();
  rmSync(folder, { recursive: true });
});

const SMALL = { prompt: 'a photo of a cat', width: 64, height: 64, steps: 3, guidanceScale: 4 };
const box = (left: number, top: number, right: number, bottom: number): Region['shape'] => ({
  kind: 'box',
  box: { top, left, bottom, right },
});

describe('pictures', () => {
  it('are the same for the same seed, alone or in a batch', async () => {
    const one = await pipeline.sample({ ...SMALL, seed: 5, count: 3 });
    const batch = await pipeline.sample({ ...SMALL, seed: 5, count: 3, batchSize: 2 });
    expect(one.map(({ seed }) => seed)).toEqual([5, 6, 7]);
    one.forEach(({ latents, width, height }, i) => {
      expect([width, height]).toEqual([64, 64]);
      expect(batch[i]!.latents.data).toBeAllClose(latents.data, { rtol: 1e-5, atol: 1e-5 });
    });
    const [again] = await pipeline.sample({ ...SMALL, seed: 6 });
    expect(again!.data).toEqual(one[1]!.data);
    expect(again!.data).not.toEqual(one[0]!.data);
  });

  it('begin with given noise: that of a seed gives the seed’s picture', async () => {
    const noise = [7, 8].map((seed) => new TorchGenerator(seed).randn(4 * (64 / pipeline.factor) ** 2));
    const given = await pipeline.sample({ ...SMALL, count: 2, initialNoise: noise });
    const seeded = await pipeline.sample({ ...SMALL, seed: 7, count: 2 });
    for (const [i, { data }] of seeded.entries()) expect(given[i]!.data).toEqual(data);
    await expect(pipeline.sample({ ...SMALL, initialNoise: [] })).rejects.toThrow(
      /initial noise: expected 1 × \d+ numbers, got none/,
    );
  });

  it('with a region over everything are those of its prompt', async () => {
    const other = { prompt: 'the castle', negativePrompt: 'blurry' };
    const [region] = await pipeline.sample({ ...SMALL, regions: [{ ...other, shape: box(0, 0, 1, 1) }] });
    const [alone] = await pipeline.sample({ ...SMALL, ...other });
    expect(region!.latents.data).toBeAllClose(alone!.latents.data, { rtol: 1e-5, atol: 1e-5 });
  });

  it('with regions of the context’s own prompt are those without regions', async () => {
    const regions = [box(0, 0, 0.5, 1), box(0.25, 0.25, 1, 1)].map((shape) => ({
      prompt: SMALL.prompt,
      shape,
    }));
    const [regional] = await pipeline.sample({ ...SMALL, regions });
    const [plain] = await pipeline.sample(SMALL);
    expect(regional!.latents.data).toBeAllClose(plain!.latents.data, { rtol: 1e-4, atol: 1e-4 });
  });

  it('change when regions keep to themselves, and one region over everything changes nothing', async () => {
    const regions = [
      { prompt: 'a cat', shape: box(0, 0, 0.5, 1) },
      { prompt: 'a dog', shape: box(0.5, 0, 1, 1) },
    ];
    const drawn = async (isolate: number): Promise<Float32Array> =>
      (await pipeline.sample({ ...SMALL, regions, isolate }))[0]!.latents.data;
    const [apart, first, together] = [await drawn(1), await drawn(0.4), await drawn(0)];
    // Of three steps: shares are rounded to whole ones.
    expect(await drawn(0.84)).toEqual(apart);
    expect(await drawn(1 / 3)).toEqual(first);
    expect(await drawn(0.16)).toEqual(together);
    const distance = (a: Float32Array, b: Float32Array): number =>
      Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0));
    const norm = distance(together, new Float32Array(together.length));
    for (const [one, other] of [
      [apart, together],
      [first, together],
      [apart, first],
    ] as const) {
      expect(distance(one, other) / norm).toBeGreaterThan(1e-3);
    }
    const whole = [{ prompt: SMALL.prompt, shape: box(0, 0, 1, 1) }];
    const [isolated] = await pipeline.sample({ ...SMALL, regions: whole, isolate: 1 });
    const [plain] = await pipeline.sample(SMALL);
    expect(isolated!.latents.data).toBeAllClose(plain!.latents.data, { rtol: 1e-5, atol: 1e-5 });
  });

  it('of regions that keep to themselves are those of the regions alone, whatever stands beside them', async () => {
    const [cells, channels, seeds] = [64 / pipeline.factor, 4, [3, 4]];
    const noises = seeds.map((seed) => new TorchGenerator(seed).randn(channels * cells ** 2));
    const row = sideBySide(noises, cells);
    const prompts = ['a cat', 'the castle'];
    const regions = prompts.map((prompt, i) => ({ prompt, shape: box(i / 2, 0, (i + 1) / 2, 1) }));
    const wide = { ...SMALL, prompt: '', width: 128, initialNoise: [row], regions, isolate: 1 };
    const [scene] = await pipeline.sample(wide);
    for (const [i, prompt] of prompts.entries()) {
      const [alone] = await pipeline.sample({ ...SMALL, prompt, initialNoise: [noises[i]!] });
      const own = squareOf(scene!.latents.data, i, 2, cells);
      expect(own).toBeAllClose(alone!.latents.data, { rtol: 1e-4, atol: 1e-4 });
    }
  });

  it('with a half-covered mask are neither the region’s nor the context’s', async () => {
    const covered = async (share: number) => {
      const mask = { width: 64, height: 64, data: new Float32Array(64 * 64).fill(share) };
      const regions = [{ prompt: 'the castle', shape: { kind: 'mask', mask } as const }];
      return (await pipeline.sample({ ...SMALL, steps: 1, regions }))[0]!.latents.data;
    };
    const [context, half, region] = [await covered(0.001), await covered(0.5), await covered(1)];
    const distance = (a: Float32Array, b: Float32Array): number =>
      Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0));
    const full = distance(context, region);
    expect(distance(half, context)).toBeLessThan(0.75 * full);
    expect(distance(half, region)).toBeLessThan(0.75 * full);
  });

  it('stop between steps, and finished ones stay finished', async () => {
    const abort = new AbortController();
    const finished: number[] = [];
    const run = pipeline.sample(
      { ...SMALL, count: 3 },
      {
        signal: abort.signal,
        onPicture: ({ index }) => void finished.push(index),
        onStep: ({ pictures, step }) => {
          if (pictures[0] === 1 && step === 2) abort.abort(new Error('enough'));
        },
      },
    );
    await expect(run).rejects.toThrow('enough');
    expect(finished).toEqual([0]);
  });

  it('show a preview of what a step predicts', async () => {
    const sizes: number[] = [];
    await pipeline.sample(SMALL, {
      onStep: async ({ preview }) => void sizes.push((await preview()).data.length),
    });
    expect(sizes).toEqual([64 * 64 * 3, 64 * 64 * 3, 64 * 64 * 3]);
  });

  it('are guided by a ControlNet, by nothing at strength 0', async () => {
    const controlNet = await openControlNet(goldenPath('goldens/tiny-random/controlnet'));
    const picture = { width: 64, height: 64, data: new Uint8Array(64 * 64 * 3).fill(200) };
    const [plain] = await pipeline.sample(SMALL);
    const [zero] = await pipeline.sample({ ...SMALL, controls: [{ controlNet, picture, strength: 0 }] });
    const [guided] = await pipeline.sample({ ...SMALL, controls: [{ controlNet, picture }] });
    expect(zero!.latents.data).toBeAllClose(plain!.latents.data, { rtol: 1e-5, atol: 1e-5 });
    expect(guided!.data).not.toEqual(plain!.data);
  });
});

describe('requests', () => {
  it('have prompts that somebody may have written', async () => {
    const long = { ...SMALL, prompt: 'a'.repeat(10_001) };
    await expect(pipeline.sample(long)).rejects.toThrow('at most 10000 characters, got 10001');
  });

  it.each([
    [{ width: 63 }, 'width: expected a multiple of 8 pixels, got 63; 56 and 64 work'],
    [{ steps: 0 }, 'steps: expected a whole number of 1 … 1000, got 0'],
    [{ isolate: 0.5 }, 'isolate: there are no regions to keep apart'],
    [{ regions: [{ prompt: 'x', shape: box(0, 0, 2, 1) }] }, 'region 1: expected a box inside the picture'],
    [{ layerPrompts: new Map([[99, 'x']]) }, 'style mix: expected layers 0 … 15, got 99'],
    [{ sampler: 'eulr' }, 'sampler: expected one of'],
    [{ sampler: 'constructor' }, 'sampler: expected one of'],
    [{ width: 4104 }, 'width: expected 8 … 4096, got 4104 pixels'],
    [{ width: 4096, height: 4096 }, 'at most 4194304 pixels, got 4096 × 4096 = 16777216'],
    [{ count: 1e6 }, 'count: expected a whole number of 1 … 10000, got 1000000'],
    [{ batchSize: 1e6 }, 'batchSize: expected a whole number of 1 … 64'],
    [{ guidanceScale: Number.POSITIVE_INFINITY }, 'guidance: expected -100 … 100, got Infinity'],
    [{ seed: 2 ** 53 - 1 }, 'seed: expected a whole number of'],
  ])('that cannot be are refused: %o', async (change, message) => {
    await expect(pipeline.sample({ ...SMALL, ...change })).rejects.toThrow(message);
    await expect(pipeline.sample({ ...SMALL, ...change })).rejects.toThrow(UsageError);
  });

  it('refuse adapters of another architecture', async () => {
    const adapter = await openT2iAdapter(goldenPath('goldens/tiny-random/t2i_adapter'));
    const other = { ...adapter, config: { ...adapter.config, channels: [320, 640, 1280, 1280] } };
    const picture = { width: 64, height: 64, data: new Uint8Array(64 * 64 * 3) };
    const request = { ...SMALL, adapters: [{ adapter: other, picture }] };
    await expect(pipeline.sample(request)).rejects.toThrow(MismatchError);
  });
});

describe('prompts', () => {
  const everywhere = (text: string): string[] => Array<string>(16).fill(text);

  it('take weights, any length, and other texts for single layers', async () => {
    const encoder = new PromptEncoder(base, pipeline.vocabulary, new Map(), 0);
    const long = Array.from({ length: 60 }, (_, i) => `word ${i}`).join(', ');
    const mixed = everywhere('a cat').with(3, 'the castle');
    const [[plain, one, none, empty], [short, chunked], [mix]] = (await encoder
      .encode([
        ['a red cat', 'a (red:1) cat', 'a (red:0) cat', ''].map(everywhere),
        ['a cat', long].map(everywhere),
        [mixed],
      ])
      .then((groups) => groups.map((group) => group.map(({ context }) => context)))) as [
      Features,
      Features,
      Features,
    ];
    expect(one!.data).toEqual(plain!.data);
    // Weight 0 leaves what an empty prompt has in the word's place, and nothing else changes.
    const width = plain!.shape[3]!;
    const changed = [...plain!.data.keys()].filter((i) => none!.data[i] !== plain!.data[i]);
    expect(changed.length).toBeGreaterThan(0);
    for (const i of changed) expect(none!.data[i]).toBeCloseTo(empty!.data[i]!, 5);
    expect(new Set(changed.map((i) => Math.floor(i / width))).size).toBeLessThan(16 * 10);
    expect(chunked!.shape[2]! % 77).toBe(0);
    expect(chunked!.shape[2]!).toBeGreaterThan(77);
    expect(short!.shape).toEqual(chunked!.shape);
    const layer = mix!.data.length / 16;
    expect(mix!.data.slice(3 * layer, 4 * layer)).not.toEqual(mix!.data.slice(0, layer));
    expect(mix!.data.slice(4 * layer, 5 * layer)).toEqual(mix!.data.slice(0, layer));
  });

  it('longer than one chunk draw pictures', async () => {
    const prompt = Array.from({ length: 60 }, (_, i) => `word ${i}`).join(', ');
    const [long] = await pipeline.sample({ ...SMALL, prompt });
    const [other] = await pipeline.sample({ ...SMALL, prompt: `${prompt} and a cat` });
    expect(long!.data).not.toEqual(other!.data);
  });

  it('name layers by groups and ranges', () => {
    const groups = layerGroups(base.parts.unet.config);
    expect(groups).toEqual({
      coarse: [4, 5, 6, 7, 8, 9],
      middle: [2, 3, 10, 11, 12],
      fine: [0, 1, 13, 14, 15],
    });
    const mix = parseStyleMix({ fine: 'a', '0,2-3': 'b' }, base.parts.unet.config);
    expect([...mix].sort(([a], [b]) => a - b)).toEqual([
      [0, 'b'],
      [1, 'a'],
      [2, 'b'],
      [3, 'b'],
      [13, 'a'],
      [14, 'a'],
      [15, 'a'],
    ]);
    expect(() => parseStyleMix({ corse: 'a' }, base.parts.unet.config)).toThrow('did you mean "coarse"?');
  });
});

type Features = readonly Awaited<ReturnType<PromptEncoder['encode']>>[number][number]['context'][];

describe('decoding in tiles', () => {
  it('covers every length with tiles that overlap by what they should, or more', () => {
    for (const [length, tile, overlap] of [
      [65, 64, 16],
      [96, 64, 16],
      [112, 64, 16],
      [113, 64, 16],
      [40, 16, 8],
      [1000, 64, 16],
    ] as const) {
      const starts = tileStarts(length, tile, overlap);
      expect(starts[0]).toBe(0);
      expect(starts.at(-1)).toBe(length - tile);
      starts.slice(1).forEach((start, i) => {
        expect(start).toBeGreaterThan(starts[i]!);
        expect(starts[i]! + tile - start, `${length}: ${starts}`).toBeGreaterThanOrEqual(overlap);
      });
    }
    expect(tileStarts(112, 64, 16)).toEqual([0, 48]);
    expect(tileStarts(64, 64, 16)).toEqual([0]);
  });

  it('blends two tiles with weights that add up to one and rise by equal steps', () => {
    const [length, overlap] = [12, 5];
    const before = ramp(length, overlap, false, true);
    const after = ramp(length, overlap, true, false);
    expect([...before.subarray(0, length - overlap)]).toEqual(Array(length - overlap).fill(1));
    for (let i = 0; i < overlap; i++) {
      expect(after[i]).toBeCloseTo((i + 0.5) / overlap, 6);
      expect(before[length - overlap + i]! + after[i]!).toBeCloseTo(1, 6);
    }
    expect([...ramp(length, overlap, false, false)]).toEqual(Array(length).fill(1));
  });

  it('joins tiles decoded one by one', async () => {
    const vae = await base.parts.vae();
    const [cells, tile, overlap] = [20, 16, 8];
    const factor = pipeline.factor;
    const latents = float32([1, 4, tile, cells], new TorchGenerator(3).randn(4 * tile * cells));
    const codec = new LatentCodec(vae, executionContext(), tile);
    const tiled = await codec.decode(latents);
    const part = async (left: number) => {
      const own = float32([1, 4, tile, tile]);
      for (let row = 0; row < 4 * tile; row++) {
        own.data.set(latents.data.subarray(row * cells + left, row * cells + left + tile), row * tile);
      }
      return codec.decode(own);
    };
    const [first, second] = [await part(0), await part(cells - tile)];
    await codec.dispose();
    const width = cells * factor;
    const shift = (cells - tile) * factor;
    const reach = overlap * factor;
    let compared = 0;
    tiled.data.forEach((value, i) => {
      const [x, y, c] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width), i % 3];
      const at = (picture: typeof first, column: number): number =>
        picture.data[(y * picture.width + column) * 3 + c]!;
      // Tiles share more than they blend over: each rises over the first cells from its own edge.
      const rise = x < shift ? 0 : Math.min(1, (x - shift + 0.5) / reach);
      const fall = x >= tile * factor ? 0 : Math.min(1, (tile * factor - x - 0.5) / reach);
      const shares = [
        fall === 0 ? [] : [[fall, at(first, x)]],
        rise === 0 ? [] : [[rise, at(second, x - shift)]],
      ];
      const parts = shares.flat() as [number, number][];
      // Pictures are cut off at black and white, each tile on its own.
      if (parts.some(([, level]) => level === 0 || level === 255)) return;
      compared++;
      const blended = parts.reduce((sum, [share, level]) => sum + share * level, 0) / (rise + fall);
      expect(Math.abs(value - blended), `${x}, ${y}`).toBeLessThan(1.01);
    });
    expect(compared).toBeGreaterThan(tiled.data.length / 2);
  });

  it('shows no seams: tiles meet as smoothly as the picture is inside', async () => {
    const vae = await base.parts.vae();
    const latents = float32([1, 4, 40, 24], new TorchGenerator(3).randn(4 * 40 * 24));
    const whole = await new LatentCodec(vae).decode(latents);
    const tiled = await new LatentCodec(vae, executionContext(), 16).decode(latents);
    expect([tiled.width, tiled.height]).toEqual([whole.width, whole.height]);
    /** Mean difference between neighbouring rows. */
    const steps = ({ data, width, height }: typeof whole): number[] =>
      Array.from({ length: height - 1 }, (_, y) => {
        let sum = 0;
        for (let i = 0; i < width * 3; i++)
          sum += Math.abs(data[(y + 1) * width * 3 + i]! - data[y * width * 3 + i]!);
        return sum / (width * 3);
      });
    const worst = Math.max(...steps(whole));
    for (const step of steps(tiled)) expect(step).toBeLessThan(1.3 * worst);
    let distance = 0;
    whole.data.forEach((value, i) => {
      distance += Math.abs(value - tiled.data[i]!) / whole.data.length;
    });
    expect(distance).toBeLessThan(8);
  });
});

describe('a picture’s recipe', () => {
  it('names files as seen from the picture, and by name alone where they lie elsewhere', async () => {
    const own = path.join(folder, 'loras', 'a.safetensors');
    mkdirSync(path.dirname(own), { recursive: true });
    writeFileSync(own, '');
    const scene = normalScene({ prompt: 'x', loras: [own, '/elsewhere/b.safetensors'] }, (file) => file);
    const texts = recipeTexts(scene, 1, model, '1', path.join(folder, 'out'));
    const stored = JSON.parse(texts['edlora.scene']!) as { scene: { base?: string; loras: object[] } };
    expect(stored.scene.base).toMatch(/model$/);
    expect(stored.scene.loras).toMatchObject([{ path: '../loras/a.safetensors' }, { path: 'b.safetensors' }]);
    for (const secret of [os.homedir(), folder, '/elsewhere', path.dirname(model)]) {
      expect(JSON.stringify(texts)).not.toContain(`${secret}/`);
    }
    // The shipped model is the default.
    const shipped = recipeTexts(scene, 1, defaultBase(), '1', folder)['edlora.scene']!;
    expect((JSON.parse(shipped) as typeof stored).scene.base).toBe(undefined);
    mkdirSync(path.join(folder, 'out'), { recursive: true });
    const file = path.join(folder, 'out', 'a.png');
    writeFileSync(file, await encodePng({ width: 1, height: 1, data: new Uint8Array(3) }, texts));
    expect(normalScene(await readPictureScene(file), (name) => name).loras[0]!.path).toBe(own);
  });

  it('draws it again', async () => {
    const scene = normalScene(
      {
        base: model,
        prompt: 'a photo of a cat',
        width: 64,
        height: 64,
        steps: 2,
        regions: ['the castle @ 0,0,0.5,1'],
        count: 2,
        seed: 9,
      },
      (file) => file,
    );
    const source = await openSceneModel(scene);
    const prepared = await prepareScene(scene, source);
    const own = await Pipeline.create(source.base, source);
    const drawn = await own.sample(prepared.request);
    const file = path.join(folder, 'picture.png');
    const texts = recipeTexts(prepared.scene, drawn[1]!.seed, source.base.path, '1.2.3', folder);
    expect(texts.parameters).toBe(
      'a photo of a cat\nSteps: 2, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 10, Size: 64x64, Model: model, RNG: CPU, Regions: 1, Version: edlora 1.2.3',
    );
    writeFileSync(file, await encodePng(drawn[1]!, texts));
    // The model lies elsewhere, as for whoever gets the picture.
    const stored = { ...normalScene(await readPictureScene(file), (name) => name), base: model };
    const [again] = await own.sample((await prepareScene(stored, await openSceneModel(stored))).request);
    expect(again!.data).toEqual(drawn[1]!.data);
    await own.dispose();
  });

  it('reduces masks of any size, and refuses what this machine cannot hold before it opens a picture', async () => {
    const mask = path.join(folder, 'mask.png');
    await sharp({ create: { width: 5000, height: 5000, channels: 3, background: 'black' } })
      .composite([
        {
          input: { create: { width: 2500, height: 5000, channels: 3, background: 'white' } },
          left: 0,
          top: 0,
        },
      ])
      .png({ compressionLevel: 1 })
      .toFile(mask);
    const scene = (more: object) =>
      normalScene({ base: model, prompt: 'a cat', width: 64, height: 64, ...more }, (name) => name);
    const source = await openSceneModel(scene({}));
    const { request, notes } = await prepareScene(scene({ regions: [{ prompt: 'a dog', mask }] }), source);
    const { shape } = request.regions![0]!;
    if (shape.kind !== 'mask') throw new Error('expected a mask');
    expect([shape.mask.width, shape.mask.height]).toEqual([64, 64]);
    expect(shape.mask.data[64 * 30 + 5]).toBeCloseTo(1, 5);
    expect(shape.mask.data[64 * 30 + 60]).toBeCloseTo(0, 5);
    expect(notes.join()).toContain('mask resized from 5000 × 5000 to 64 × 64');
    const wide = scene({ width: 4096, height: 4096, regions: [{ prompt: 'a dog', mask: 'nowhere.png' }] });
    await expect(prepareScene(wide, source)).rejects.toThrow(/at most 4194304 pixels, got 4096 × 4096/);
    const soft = { prompt: 'a dog', box: [0, 0, 1, 1], feather: 4 };
    const many = scene({ width: 2048, height: 2048, regions: Array.from({ length: 9 }, () => soft) });
    await expect(prepareScene(many, source)).rejects.toThrow(
      /at most 33554432 pixels together, got 9 of 2048/,
    );
    const styled = scene({ styleMix: { constructor: 'a dog' } });
    await expect(prepareScene(styled, source)).rejects.toThrow(/style mix: expected coarse/);
  });
});
