/** What a drawn scene leaves in its folder: numbers, sheets, previews, recipes, and what it says meanwhile. */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { InterruptedError, UsageError } from '../../src/errors.ts';
import { type Picture, readPicture } from '../../src/formats/picture.ts';
import { encodePng, readPngTexts } from '../../src/formats/png.ts';
import {
  type DrawProgress,
  drawScene,
  type PlannedScene,
  pictureGrid,
  planScene,
} from '../../src/sampling/draw-scene.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';
import { writeSmallBase } from '../support/small-base.ts';

const scratch = scratchFolder();

/** Of one colour. */
const flat = (width: number, height: number, value: number): Picture => ({
  width,
  height,
  data: new Uint8Array(width * height * 3).fill(value),
});

describe('a sheet', () => {
  it.each([
    [1, 4, 4, 1],
    [2, 4, 4, 1],
    [3, 4, 4, 2],
    [4, 4, 4, 2],
    [5, 4, 4, 2],
    [6, 4, 4, 2],
    [7, 4, 4, 3],
    [4, 8, 2, 1],
    [4, 2, 8, 4],
  ])('of %i pictures of %i × %i has %i columns', (count, width, height, columns) => {
    const pictures = Array.from({ length: count }, (_, i) => flat(width, height, i + 1));
    const sheet = pictureGrid(pictures);
    const rows = Math.ceil(count / columns);
    expect(sheet).toMatchObject({ width: columns * width, height: rows * height });
    const expected = Array.from({ length: sheet.height * sheet.width * 3 }, (_, i) => {
      const x = Math.floor(i / 3) % sheet.width;
      const y = Math.floor(i / 3 / sheet.width);
      const n = Math.floor(y / height) * columns + Math.floor(x / width);
      return n < count ? n + 1 : 0;
    });
    expect([...sheet.data]).toEqual(expected);
  });
});

describe('a drawn scene', () => {
  let planned: PlannedScene;
  beforeAll(async () => {
    const base = scratch('base');
    mkdirSync(base);
    await writeSmallBase(base);
    planned = await planScene(
      normalScene({ base, prompt: 'a cat', width: 64, height: 64, steps: 2, count: 2, seed: 3 }),
    );
  });

  it('goes on after the highest number, and tells how far it is in steps of all pictures', async () => {
    const folder = scratch('numbers');
    mkdirSync(folder);
    for (const name of ['0007.png', '0003.png', '99.png', '0100.txt'])
      writeFileSync(path.join(folder, name), '');
    const told: DrawProgress[] = [];
    const onProgress = (progress: DrawProgress): number => told.push(progress);
    const drawn = await drawScene(planned, { folder, onProgress, grid: true });
    expect(drawn.folder).toBe(folder);
    expect(drawn.pictures.map(({ file, ...rest }) => [path.relative(folder, file), rest])).toEqual([
      ['0008.png', { seed: 3, width: 64, height: 64 }],
      ['0009.png', { seed: 4, width: 64, height: 64 }],
    ]);
    expect(drawn.grid).toBe(path.join(folder, 'grid-0008.png'));
    expect((await readPicture(drawn.grid!)).data.slice(0, 64 * 64 * 3)).toEqual(
      (await readPicture(drawn.pictures[0]!.file)).data,
    );
    expect(told).toEqual([1, 2, 3, 4].map((done) => ({ done, total: 4, picture: done <= 2 ? 1 : 2 })));
    expect((await readPngTexts(drawn.pictures[0]!.file)).get('parameters')).toContain('a cat');
  });

  it('has no recipe, sheet or preview where none is asked for', async () => {
    const folder = scratch('plain');
    const drawn = await drawScene(planned, { folder, metadata: false });
    expect(drawn.grid).toBeNull();
    expect(readdirSync(folder)).toEqual(['0000.png', '0001.png']);
    expect((await readPngTexts(drawn.pictures[1]!.file)).size).toBe(0);
  });

  it('shows a preview between steps, and takes it away; a picture of that name is left alone', async () => {
    const folder = scratch('previews');
    const shown: boolean[] = [];
    const onProgress = (): number => shown.push(readdirSync(folder).includes('preview.png'));
    await drawScene(planned, { folder, previewEvery: 1, onProgress });
    // Not at the last step of a picture, whose file is written at once.
    expect(shown).toEqual([false, true, true, true]);
    expect(readdirSync(folder)).toEqual(['0000.png', '0001.png']);
    const own = path.join(folder, 'preview.png');
    writeFileSync(own, await encodePng(flat(1, 1, 0)));
    await expect(drawScene(planned, { folder, previewEvery: 1 })).rejects.toThrow(/is no preview/);
    await drawScene(planned, { folder });
    expect(readdirSync(folder)).toContain('preview.png');
  });

  it('that is broken off says how many pictures it keeps', async () => {
    const stoppedAt = async (steps: number): Promise<Error> => {
      const stop = new AbortController();
      const onProgress = ({ done }: DrawProgress): void => void (done === steps && stop.abort());
      const drawing = drawScene(planned, {
        folder: scratch(`stop-${steps}`),
        onProgress,
        signal: stop.signal,
      });
      return drawing.then(
        () => expect.unreachable(),
        (error: Error) => error,
      );
    };
    const [early, late] = [await stoppedAt(1), await stoppedAt(3)];
    expect(early).toBeInstanceOf(InterruptedError);
    expect(early.message).toContain('no picture was finished yet');
    expect(late.message).toContain('1 finished picture is kept in');
  });

  it('is refused into a file, or as a sheet that no one could read', async () => {
    const file = scratch('file');
    writeFileSync(file, '');
    await expect(drawScene(planned, { folder: file })).rejects.toThrow(UsageError);
    const many = { ...planned, request: { ...planned.request, count: 65_537 } };
    await expect(drawScene(many, { folder: scratch('sheet'), grid: true })).rejects.toThrow(
      /at most 268435456 pixels, got 268439552/,
    );
  });
});
