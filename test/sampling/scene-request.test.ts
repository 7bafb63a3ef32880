/** From a scene to a request: every setting arrives, shapes are where they were said to be, and what has no effect is named. */
import { writeFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { encodePng } from '../../src/formats/png.ts';
import { defaultBase } from '../../src/package-root.ts';
import { openSceneModel, type SceneModel } from '../../src/sampling/model-source.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { prepareScene } from '../../src/sampling/scene-request.ts';
import { scratch } from '../support/scratch.ts';

type Scene = Parameters<typeof normalScene>[0];

let model: SceneModel;
beforeAll(async () => {
  model = await openSceneModel(normalScene({ base: defaultBase() }));
});
const SMALL = { width: 64, height: 32 };
const prepared = (scene: Scene, names: readonly string[] = []) =>
  prepareScene(normalScene({ base: defaultBase(), ...scene }), { ...model, conceptNames: names });

async function pictureFile(
  width: number,
  height: number,
  data: (i: number) => number = () => 0,
): Promise<string> {
  const file = scratch('picture.png');
  const bytes = Uint8Array.from({ length: 3 * width * height }, (_, i) => data(Math.floor(i / 3)));
  writeFileSync(file, await encodePng({ width, height, data: bytes }));
  return file;
}

describe('a request', () => {
  it('has every setting of its scene, and the scene afterwards as well', async () => {
    const scene = {
      ...SMALL,
      combine: 'sum' as const,
      prompt: 'a cat',
      negative: 'a dog',
      steps: 7,
      guidance: 3,
      guidanceRescale: 0.5,
      sampler: 'ddim',
      eta: 0.25,
      seed: 11,
      count: 4,
      batch: 2,
    };
    const { request, scene: complete, notes } = await prepared(scene);
    expect(request).toMatchObject({
      ...SMALL,
      combine: 'sum',
      prompt: 'a cat',
      negativePrompt: 'a dog',
      steps: 7,
      guidanceScale: 3,
      guidanceRescale: 0.5,
      sampler: 'ddim',
      eta: 0.25,
      seed: 11,
      count: 4,
      batchSize: 2,
    });
    expect(complete).toMatchObject(scene);
    expect(notes).toEqual([]);
  });

  it('starts from a picture of its size, three quarters of the way back where nothing is said', async () => {
    const image = await pictureFile(8, 8, () => 90);
    const { request, notes } = await prepared({ ...SMALL, prompt: 'a cat', init: { image } });
    expect(request.init).toMatchObject({ denoise: 0.75, picture: SMALL });
    expect(request.init!.picture.data.every((value) => value === 90)).toBe(true);
    expect(notes).toEqual([`${image}: resized from 8 × 8 to 64 × 32`]);
    const exact = await pictureFile(64, 32);
    const own = await prepared({ ...SMALL, prompt: 'a cat', init: { image: exact, denoise: 0.5 } });
    expect(own.request.init!.denoise).toBe(0.5);
    expect(own.notes).toEqual([]);
  });

  it.each<[string, object]>([
    ['model', {}],
    ['karras', { useKarrasSigmas: true }],
    ['trailing', { timestepSpacing: 'trailing' }],
    ['karras + linspace', { useKarrasSigmas: true, timestepSpacing: 'linspace' }],
  ])('has the schedule %s', async (schedule, expected) => {
    const { request } = await prepared({ ...SMALL, prompt: 'x', schedule });
    expect(JSON.parse(JSON.stringify(request.schedule))).toEqual(expected);
  });

  it('has no schedule that nobody knows', async () => {
    await expect(prepared({ ...SMALL, prompt: 'x', schedule: 'karras+cosine' })).rejects.toThrow(
      /got "cosine"/,
    );
    await expect(prepared(SMALL)).rejects.toThrow(UsageError);
  });
});

describe('a region', () => {
  const shapeOf = async (place: object) => {
    const scene = { ...SMALL, prompt: 'x', regions: [{ prompt: 'y', ...place }] } as Scene;
    const { request, notes } = await prepared(scene);
    const { shape } = request.regions![0]!;
    return { shape, notes, mask: shape.kind === 'mask' ? shape.mask : null };
  };
  /** Columns and rows that a mask covers, as [left, top, right, bottom]. */
  const extent = (mask: { data: Float32Array; width: number } | null): number[] => {
    const covered = [...mask!.data].flatMap((value, i) => (value > 0.5 ? [i] : []));
    const [xs, ys] = [covered.map((i) => i % mask!.width), covered.map((i) => Math.floor(i / mask!.width))];
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1];
  };

  it.each([
    ['shares', [0.25, 0.5, 0.75, 1]],
    ['pixels', [16, 16, 48, 32]],
  ])('is a box in %s, a mask where its edge is soft', async (_, box) => {
    expect((await shapeOf({ box })).shape).toEqual({
      kind: 'box',
      box: { left: 0.25, top: 0.5, right: 0.75, bottom: 1 },
    });
    const { mask } = await shapeOf({ box, feather: 2 });
    expect(extent(mask)).toEqual([16, 16, 48, 32]);
    expect(mask!.data.some((value) => value > 0 && value < 1)).toBe(true);
  });

  it.each([
    [
      'shares',
      [
        [0.25, 0],
        [0.5, 0],
        [0.5, 0.5],
        [0.25, 0.5],
      ],
    ],
    [
      'pixels',
      [
        [16, 0],
        [32, 0],
        [32, 16],
        [16, 16],
      ],
    ],
  ])('is a polygon in %s', async (_, polygon) => {
    const { mask } = await shapeOf({ polygon });
    expect(extent(mask)).toEqual([16, 0, 32, 16]);
    expect(mask!.data.every((value) => value === 0 || value === 1)).toBe(true);
  });

  it('is a polygon in shares up to the border, which is 1', async () => {
    const polygon = [
      [0.25, 0],
      [1, 0],
      [1, 1],
      [0.25, 1],
    ];
    expect(extent((await shapeOf({ polygon })).mask)).toEqual([16, 0, 64, 32]);
  });

  it('is a mask of any size, and says that it was resized', async () => {
    const file = await pictureFile(4, 2, (i) => (i === 5 ? 255 : 0));
    const { mask, notes } = await shapeOf({ mask: file });
    expect(extent(mask)).toEqual([16, 16, 32, 32]);
    expect(notes).toEqual([`${file}: mask resized from 4 × 2 to 64 × 32`]);
    const exact = await pictureFile(64, 32, () => 255);
    expect((await shapeOf({ mask: exact })).notes).toEqual([]);
  });
});

describe('a scene without prompt', () => {
  it('shows three concepts side by side, with a tenth between neighbours, each to itself', async () => {
    const { request } = await prepared({ height: 64 }, ['<a>', '<b>', '<c>']);
    expect([request.width, request.height]).toEqual([3 * 64, 64]);
    expect(request.isolate).toBe(1);
    const boxes = request.regions!.map(({ shape }) => (shape.kind === 'box' ? shape.box : null)!);
    const gap = 0.1 / 3;
    const edges = [
      [0, 1 / 3 - gap],
      [1 / 3 + gap, 2 / 3 - gap],
      [2 / 3 + gap, 1],
    ];
    for (const [i, [left, right]] of edges.entries()) {
      expect(boxes[i]!.left).toBeCloseTo(left!, 9);
      expect(boxes[i]!.right).toBeCloseTo(right!, 9);
      expect([boxes[i]!.top, boxes[i]!.bottom]).toEqual([0, 1]);
    }
    expect((await prepared({ isolate: 0.5, width: 64 }, ['<a>', '<b>'])).request).toMatchObject({
      isolate: 0.5,
      width: 64,
    });
  });
});

describe('notes', () => {
  const notesOf = async (scene: Scene): Promise<readonly string[]> =>
    (await prepared({ ...SMALL, prompt: 'x', ...scene })).notes;

  it.each<[Scene, string[]]>([
    [{ guidance: 1, negative: 'y' }, ['`negative` has no effect without guidance above 1']],
    [{ guidance: 1.5, negative: 'y', guidanceRescale: 0.5 }, []],
    [{ guidance: 1, guidanceRescale: 0.5 }, ['`guidanceRescale` has no effect without guidance above 1']],
    [{ guidance: 1 }, []],
    [{ eta: 0.5, sampler: 'ddim' }, []],
    [{ eta: 0.5, sampler: 'euler' }, ['`eta` has no effect: only the sampler ddim reads it']],
    [{ originalSize: [64, 64] }, ['`originalSize` has no effect: this model reads no sizes']],
    [{ crop: [0, 0] }, ['`crop` has no effect: this model reads no sizes']],
    [
      { guidance: 1, regions: [{ prompt: 'y', negative: 'z', box: [0, 0, 1, 1] }] },
      ['`negative` has no effect without guidance above 1'],
    ],
  ])('of %j: %j', async (scene, expected) => {
    expect(await notesOf(scene)).toEqual(expected);
  });

  it('name twenty unknown words, and count the others', async () => {
    const prompt = Array.from({ length: 23 }, (_, i) => `<nobody${i}>`).join(' ');
    const notes = await notesOf({ prompt });
    expect(notes).toHaveLength(21);
    expect(notes[19]).toMatch(/^<nobody19>: no such word in this model/);
    expect(notes[20]).toBe('and 3 more words that this model does not have');
    expect(await notesOf({ prompt: '<nobody>' })).toHaveLength(1);
  });
});
