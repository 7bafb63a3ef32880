/** Which views of a picture are encoded, and what is kept of them, with an encoder that hands on the pixels. */

import { writeFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import type { GrayPicture } from '../../src/formats/picture.ts';
import { encodePng } from '../../src/formats/png.ts';
import type { ModelPart } from '../../src/models/checkpoint.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { type VaeConfig, vaeFactor } from '../../src/models/vae/config.ts';
import { defaultBase } from '../../src/package-root.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import type { LoadedGraph, Runtime } from '../../src/runtime/runtime.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { encodePictures, type TrainingItem, type ViewOptions } from '../../src/training/data/latent-cache.ts';
import type { TrainingPicture } from '../../src/training/data/training-folder.ts';
import { scratch } from '../support/scratch.ts';

let vae: ModelPart<VaeConfig>;
let factor: number;
beforeAll(async () => {
  vae = await (await openCheckpoint(defaultBase())).parts.vae();
  factor = vaeFactor(vae.config);
});

/** The mean of a cell is the red of its first pixel, from 0 to 1; log-variances go far beyond what is sensible. */
const LOGVAR = [-100, 0, 2 * Math.log(3), 100];
const loaded: string[] = [];
const runtime = {
  load: async () => {
    const own = loaded.push('') - 1;
    return {
      run: async ({ image }: { image: Tensor<Float32Array> }) => {
        const [, , height, width] = image.shape as [number, number, number, number];
        loaded[own] = `${width} × ${height}`;
        const shape = [1, 4, height / factor, width / factor];
        const mean = float32(shape);
        const logvar = float32(shape);
        const cells = shape[2]! * shape[3]!;
        mean.data.forEach((_, i) => {
          const [row, column] = [Math.floor((i % cells) / shape[3]!), i % shape[3]!];
          mean.data[i] = (image.data[row * factor * width + column * factor]! + 1) / 2;
          logvar.data[i] = LOGVAR[Math.floor(i / cells)]!;
        });
        return { mean, logvar };
      },
      dispose: async () => undefined,
    } as unknown as LoadedGraph;
  },
} as unknown as Runtime;

/** A picture whose red is its column in cells, as a number of 255ths. */
async function pictureOf(
  columns: number,
  rows: number,
  mask: GrayPicture | null = null,
): Promise<TrainingPicture> {
  const [width, height] = [columns * factor, rows * factor];
  const file = scratch('picture.png');
  const data = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) data[3 * i] = Math.floor((i % width) / factor);
  writeFileSync(file, await encodePng({ width, height, data }));
  return { file, caption: 'a cat', width, height, mask } as TrainingPicture;
}

const PLAIN: ViewOptions = {
  resolution: 0,
  buckets: false,
  flip: false,
  crops: 1,
  shifts: 0,
  cropMode: 'centre',
};
async function encoded(
  pictures: readonly TrainingPicture[],
  cells: number,
  options: Partial<ViewOptions> = {},
): Promise<TrainingItem[]> {
  const told: number[] = [];
  const execution = executionContext({ runtime }, (done: number) => told.push(done));
  const given = { ...PLAIN, resolution: cells * factor, ...options };
  const items = await encodePictures(vae, pictures, given, new TorchGenerator(1), execution);
  expect(told).toEqual(pictures.map((_, i) => i + 1));
  return items;
}
/** The columns of the picture that a view shows in its first row. */
const columnsOf = ({ mean, latentWidth }: TrainingItem): number[] =>
  Array.from({ length: latentWidth }, (_, i) => Math.round((255 * mean[i]!) / vae.config.scalingFactor));

describe('a view', () => {
  it('is encoded as the denoiser wants it: scaled, with deviations from log-variances between −30 and 20', async () => {
    const [item] = await encoded([await pictureOf(2, 2)], 2);
    const { scalingFactor } = vae.config;
    expect(item).toMatchObject({ picture: 0, caption: 'a cat', latentHeight: 2, latentWidth: 2, mask: null });
    expect(item!.mean).toBeAllClose(
      Array.from({ length: 16 }, (_, i) => ((i % 2) * scalingFactor) / 255),
      { rtol: 1e-4, atol: 1e-6 },
    );
    const deviations = [Math.exp(-15), 1, 3, Math.exp(10)];
    expect(item!.deviation).toHaveLength(16);
    item!.deviation.forEach((value, i) => {
      const expected = deviations[Math.floor(i / 4)]! * scalingFactor;
      expect(value / expected).toBeCloseTo(1, 5);
    });
  });

  it('is cut from the middle, or from anywhere, as often as asked for', async () => {
    const wide = await pictureOf(7, 3);
    expect((await encoded([wide], 3)).map(columnsOf)).toEqual([[2, 3, 4]]);
    expect((await encoded([wide], 3, { crops: 2 })).map(columnsOf)).toEqual([
      [2, 3, 4],
      [2, 3, 4],
    ]);
    const drawn = await encoded([wide], 3, { crops: 40, cropMode: 'random' });
    expect(drawn).toHaveLength(40);
    // Both ends are reached, and nothing beyond: there every column would be the same.
    const firsts = new Set(drawn.map((item) => columnsOf(item)[0]));
    expect(firsts).toContain(0);
    expect(Math.max(...(firsts as Set<number>))).toBeLessThanOrEqual(4);
    expect(drawn.map(columnsOf).every(([a, b, c]) => b! - a! <= 1 && c! - b! <= 1)).toBe(true);
    expect(await encoded([await pictureOf(3, 3)], 3, { crops: 5, cropMode: 'random' })).toHaveLength(1);
  });

  it('is followed by its mirrored one, and by those with the object moved', async () => {
    const [plain, mirrored] = await encoded([await pictureOf(3, 3)], 3, { flip: true });
    expect([columnsOf(plain!), columnsOf(mirrored!)]).toEqual([
      [0, 1, 2],
      [2, 1, 0],
    ]);
    const side = 6 * factor;
    const data = new Uint8Array(side * side);
    for (let y = 0; y < 2 * factor; y++)
      data.fill(255, (2 * factor + y) * side + 2 * factor, (2 * factor + y) * side + 4 * factor);
    const masked = await pictureOf(6, 6, { width: side, height: side, data });
    const moved = await encoded([masked], 6, { shifts: 3, flip: true });
    expect(moved).toHaveLength(8);
    expect(moved[0]!.mask!.reduce((sum, value) => sum + value, 0)).toBe(4);
    expect([...moved[0]!.mask!].flatMap((value, i) => (value === 1 ? [i] : []))).toEqual([14, 15, 20, 21]);
    expect(moved.every(({ mask }) => mask!.some((value) => value === 1))).toBe(true);
    expect(new Set(moved.map(({ mask }) => mask!.join())).size).toBeGreaterThan(2);
  });

  it('counts everywhere where it misses the masked object', async () => {
    const [width, height] = [7 * factor, 3 * factor];
    const data = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) data.fill(255, y * width, y * width + factor);
    const [missed] = await encoded([await pictureOf(7, 3, { width, height, data })], 3);
    expect(missed!.mask).toBeNull();
    const [whole] = await encoded([await pictureOf(7, 3, { width, height, data: data.fill(128) })], 3);
    expect([...whole!.mask!]).toEqual(Array(9).fill(1));
  });

  it('of several sizes needs an encoder for each, and says which picture it is of', async () => {
    loaded.length = 0;
    const pictures = [await pictureOf(16, 16), await pictureOf(24, 8), await pictureOf(16, 16)];
    const items = await encoded(pictures, 16, { buckets: true });
    expect(
      items.map(({ picture, latentWidth, latentHeight }) => [picture, latentWidth, latentHeight]),
    ).toEqual([
      [0, 16, 16],
      [1, 24, 8],
      [2, 16, 16],
    ]);
    expect(loaded).toEqual([16, 24].map((w) => `${w * factor} × ${(w === 16 ? 16 : 8) * factor}`));
  });
});
