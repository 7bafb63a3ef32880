/** Folders of pictures, their views and captions, and the order of batches. */
import { mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { BatchOrder, batchSharingCaptions } from '../../src/training/data/batch-order.ts';
import { drawCaption, withWords } from '../../src/training/data/captions.ts';
import { readTrainingFolder } from '../../src/training/data/training-folder.ts';
import {
  coveringSize,
  cut,
  latentMask,
  mirrored,
  resizedMask,
  shifted,
  trainedSize,
  type View,
} from '../../src/training/data/variants.ts';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-data-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const picture = (name: string, width = 8, height = 6, channels: 3 | 4 = 3): Promise<unknown> =>
  sharp({ create: { width, height, channels, background: { r: 250, g: 230, b: 210, alpha: 0.9 } } }).toFile(
    path.join(folder, name),
  );
const text = (name: string, content: string): void => writeFileSync(path.join(folder, name), content);
const OPTIONS = { captions: 'auto', captionFolder: '', prompt: '', masks: 'auto' } as const;

describe('folders', () => {
  it('reads PNG, JPEG and WebP with captions from .txt, .json and .jsonl', async () => {
    await Promise.all(['a.png', 'b.jpg', 'c.webp', 'd.png'].map((name) => picture(name)));
    text('a.txt', '\nphoto of a <TOK> \r\n');
    text('captions.json', '{"b.jpg": "b, a <TOK>"}');
    text('metadata.jsonl', '{"file_name": "c.webp", "text": "c"}\n');
    text('d.json', '{"caption": "d"}');
    const found = await readTrainingFolder(folder, OPTIONS);
    expect(found.map(({ caption }) => caption)).toEqual(['photo of a <TOK>', 'b, a <TOK>', 'c', 'd']);
    expect(found[0]).toMatchObject({ width: 8, height: 6, mask: null });
  });

  it('reads captions in UTF-16, and names those of several lines', async () => {
    await Promise.all(['a.png', 'b.png', 'c.png'].map((name) => picture(name)));
    writeFileSync(path.join(folder, 'a.txt'), Buffer.from('\uFEFFein <TOK>, groß', 'utf16le'));
    writeFileSync(path.join(folder, 'b.txt'), Buffer.from('\uFEFFein <TOK>', 'utf16le').swap16());
    text('c.txt', 'c <TOK>');
    const found = await readTrainingFolder(folder, OPTIONS);
    expect(found.map(({ caption }) => caption)).toEqual(['ein <TOK>, groß', 'ein <TOK>', 'c <TOK>']);
    text('b.txt', 'photo of a <TOK>\na <TOK> on a blue ground');
    writeFileSync(path.join(folder, 'a.txt'), Buffer.from('a <TOK>', 'utf16le'));
    const refused = await readTrainingFolder(folder, OPTIONS).catch((error: Error) => error.message);
    expect(refused).toContain('2 of 3 pictures cannot be used');
    expect(refused).toContain('a.txt: expected text in UTF-8, got byte 0x00 at 1');
    expect(refused).toContain('b.txt: expected one caption, got 2 lines');
  });

  it('names all pictures that end early, and those in formats that are not read', async () => {
    await Promise.all(['a.png', 'b.jpg', 'c.jpg', 'd.jpg'].map((name) => picture(name, 64, 64)));
    renameSync(path.join(folder, 'd.jpg'), path.join(folder, 'd.jfif'));
    for (const name of ['a', 'b', 'c', 'd']) text(`${name}.txt`, 'a <TOK>');
    expect(await readTrainingFolder(folder, OPTIONS)).toHaveLength(4);
    for (const name of ['a.png', 'b.jpg']) {
      const file = path.join(folder, name);
      const { length } = readFileSync(file);
      truncateSync(file, length - (name === 'a.png' ? 40 : 100));
    }
    text('e.bmp', 'BM');
    const refused = await readTrainingFolder(folder, OPTIONS).catch((error: Error) => error.message);
    expect(refused).toContain('3 of 5 pictures cannot be used');
    for (const name of ['a.png', 'b.jpg', 'e.bmp']) expect(refused).toContain(name);
  });

  it('takes photos of a turned camera upright, with masks that fit them so', async () => {
    const pixels = { create: { width: 12, height: 6, channels: 3, background: 'red' } } as const;
    await sharp(pixels).withMetadata({ orientation: 6 }).toFile(path.join(folder, 'a.jpg'));
    await sharp({ create: { ...pixels.create, width: 6, height: 12, background: 'white' } }).toFile(
      path.join(folder, 'a_mask.png'),
    );
    text('a.txt', 'a <TOK>');
    expect(await readTrainingFolder(folder, OPTIONS)).toMatchObject([
      { width: 6, height: 12, mask: { width: 6, height: 12 } },
    ]);
  });

  it('takes captions from file names or from one prompt', async () => {
    await picture('a_red-cat (2).png');
    expect((await readTrainingFolder(folder, { ...OPTIONS, captions: 'file-name' }))[0]!.caption).toBe(
      'a red cat',
    );
    const prompted = await readTrainingFolder(folder, { ...OPTIONS, captions: 'prompt', prompt: 'x <TOK>' });
    expect(prompted[0]!.caption).toBe('x <TOK>');
  });

  it('takes masks beside the picture or from its alpha channel', async () => {
    await picture('a.png');
    await picture('a_mask.png');
    await picture('b.png', 8, 6, 4);
    const found = await readTrainingFolder(folder, { ...OPTIONS, prompt: 'x' });
    expect(found.map(({ mask }) => mask?.data.length)).toEqual([48, 48]);
    const without = await readTrainingFolder(folder, { ...OPTIONS, prompt: 'x', masks: 'none' });
    expect(without.map(({ mask }) => mask)).toEqual([null, null]);
  });

  it('names everything that is wrong at once', async () => {
    await Promise.all([picture('a.png'), picture('b.png'), picture('b_mask.png', 4, 4), picture('c.png')]);
    text('a.txt', 'fine');
    text('b.txt', 'fine');
    text('d.png', 'no picture');
    const failure = await readTrainingFolder(folder, OPTIONS).catch((error: Error) => error.message);
    expect(failure).toContain('3 of 4 pictures');
    expect(failure).toMatch(/b_mask\.png: mask of 4 × 4; expected the picture's 8 × 6/);
    expect(failure).toMatch(/c\.png: no caption/);
    expect(failure).toMatch(/d\.png: expected a picture/);
  });

  it('refuses empty and missing folders', async () => {
    await expect(readTrainingFolder(folder, OPTIONS)).rejects.toThrow('found none');
    await expect(readTrainingFolder(path.join(folder, 'none'), OPTIONS)).rejects.toThrow('check `data`');
  });
});

/** Every pixel different; the mask is a 2 × 2 square inside the frame. */
const view: View = {
  picture: { width: 8, height: 6, data: Uint8Array.from({ length: 144 }, (_, i) => i) },
  mask: Uint8Array.from({ length: 48 }, (_, i) => ([9, 10, 17, 18].includes(i) ? 255 : 0)),
};
const marked = ({ mask }: View): number => mask!.reduce((sum, value) => sum + (value > 127 ? 1 : 0), 0);

describe('views', () => {
  it('mirrors rows, and back to itself', () => {
    expect(mirrored(mirrored(view))).toEqual(view);
    expect(mirrored(view).picture.data.slice(0, 6)).toEqual(Uint8Array.of(21, 22, 23, 18, 19, 20));
    expect(mirrored(view).picture.data.slice(24, 27)).toEqual(view.picture.data.slice(45, 48));
    expect(mirrored(view).mask!.indexOf(255)).toBe(13);
    expect(mirrored({ ...view, mask: null }).mask).toBeNull();
  });
  it('moves the whole object inside the frame', () => {
    const places = new Set<number>();
    for (let seed = 0; seed < 30; seed++) {
      const moved = shifted(view, new TorchGenerator(seed));
      expect(marked(moved)).toBe(4);
      places.add(moved.mask!.indexOf(255));
    }
    expect(places.size).toBeGreaterThan(10);
  });
  it('leaves an object that the frame cuts off', () => {
    const atEdge = cut(view, 1, 1, { width: 7, height: 5 });
    for (let seed = 0; seed < 5; seed++) expect(shifted(atEdge, new TorchGenerator(seed))).toEqual(atEdge);
  });
  it('cuts, and continues edges outside', () => {
    expect(cut(view, 0, 0, { width: 8, height: 6 })).toEqual(view);
    expect([...cut(view, -1, 0, { width: 1, height: 2 }).picture.data]).toEqual([0, 1, 2, 0, 1, 2]);
  });
  it('covers the trained size', () => {
    expect(coveringSize({ width: 300, height: 200 }, { width: 64, height: 64 })).toEqual({
      width: 96,
      height: 64,
    });
    expect([
      ...resizedMask({ width: 2, height: 1, data: Uint8Array.of(0, 255) }, { width: 4, height: 1 }),
    ]).toEqual([0, 0, 255, 255]);
  });
  it('a latent cell counts if any of its pixels does', () => {
    expect([...latentMask(view.mask!, view.picture, 2)]).toEqual([1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
    expect([...latentMask(view.mask!, view.picture, 4)]).toEqual([1, 0]);
  });
  it('buckets keep about the number of pixels and the ratio', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 100, max: 4000 }),
        fc.integer({ min: 100, max: 4000 }),
        (width, height) => {
          const size = trainedSize({ width, height }, 512, 64, true);
          expect(size.width % 64).toBe(0);
          expect(size.height % 64).toBe(0);
          expect(size.width * size.height).toBeLessThanOrEqual(512 * 512);
          const off = (w: number, h: number): number => Math.abs(Math.log(w / h) - Math.log(width / height));
          expect(off(size.width, size.height)).toBeLessThanOrEqual(off(1, 1) + 1e-9);
        },
      ),
    );
    expect(trainedSize({ width: 900, height: 300 }, 512, 8, false)).toEqual({ width: 512, height: 512 });
    expect(trainedSize({ width: 100, height: 100 }, 500, 64, false)).toEqual({ width: 512, height: 512 });
    expect(trainedSize({ width: 100, height: 100 }, 8, 64, true)).toEqual({ width: 64, height: 64 });
  });
  it.each([
    [512, 512, 512, 512],
    [900, 300, 832, 256],
    [300, 900, 320, 768],
    [400, 300, 576, 448],
    // Four times the side is as wide as it gets.
    [9000, 100, 2048, 128],
  ])('the bucket of %i × %i is the nearest ratio with as many pixels as fit', (width, height, w, h) => {
    expect(trainedSize({ width, height }, 512, 64, true)).toEqual({ width: w, height: h });
  });
});

describe('captions', () => {
  const plain = { templates: 'none', shuffleCaptions: false, keepParts: 1, captionDropout: 0 } as const;
  it('puts words in', () => {
    expect(withWords('a  <TOK> , <TOK>', ['<a>', '<b>'])).toBe('a <a> <b> , <a> <b>');
  });
  it('shuffles all parts but the kept ones', () => {
    const seen = new Set<string>();
    for (let seed = 0; seed < 30; seed++) {
      const caption = drawCaption(
        'x, a, b, c',
        { ...plain, shuffleCaptions: true },
        new TorchGenerator(seed),
      );
      expect(caption.split(', ').toSorted()).toEqual(['a', 'b', 'c', 'x']);
      expect(caption.startsWith('x, ')).toBe(true);
      seen.add(caption);
    }
    expect(seen.size).toBeGreaterThan(3);
  });
  it('uses templates and drops captions', () => {
    expect(drawCaption('<a>', { ...plain, templates: 'style' }, new TorchGenerator(1))).toMatch(
      /style of <a>$/,
    );
    expect(drawCaption('<a>', { ...plain, captionDropout: 1 }, new TorchGenerator(1))).toBe('');
    expect(drawCaption('<a>', plain, new TorchGenerator(1))).toBe('<a>');
  });
});

describe('batches', () => {
  const items = Array.from({ length: 10 }, (_, id) => ({ id, latentHeight: id < 7 ? 8 : 4, latentWidth: 8 }));
  it('has every item once an epoch, sizes apart, and the same at every call', () => {
    const order = new BatchOrder(items, 3, 42, 1);
    expect(order.batches).toBe(4);
    const epoch = Array.from({ length: 4 }, (_, k) => order.at(k));
    for (const batch of epoch) {
      expect(batch).toHaveLength(3);
      expect(new Set(batch.map(({ latentHeight }) => latentHeight)).size).toBe(1);
    }
    expect(new Set(epoch.flat().map(({ id }) => id)).size).toBe(10);
    order.at(9);
    expect(order.at(2)).toEqual(epoch[2]);
    expect(new BatchOrder(items, 3, 42, 1).at(9)).toEqual(order.at(9));
    expect(new BatchOrder(items, 3, 43, 1).at(9)).not.toEqual(order.at(9));
  });

  it('may share captions, as often as they occur, and is of one size all the same', () => {
    const items = Array.from({ length: 12 }, (_, id) => ({
      id,
      caption: ['a', 'a', 'b'][id % 3]!,
      latentHeight: id < 9 ? 8 : 4,
      latentWidth: 8,
    }));
    const drawn = Array.from({ length: 400 }, (_, k) =>
      batchSharingCaptions(items, 6, 2, new TorchGenerator(k)),
    );
    for (const batch of drawn) {
      expect(batch).toHaveLength(6);
      expect(new Set(batch.map(({ latentHeight }) => latentHeight)).size).toBe(1);
      for (const i of [2, 3, 4, 5]) expect(batch[i]!.caption).toBe(batch[i - 2]!.caption);
    }
    const all = drawn.flat();
    const share = all.filter(({ caption }) => caption === 'a').length / all.length;
    expect(share).toBeGreaterThan(0.6);
    expect(share).toBeLessThan(0.73);
    expect(new Set(all.map(({ id }) => id)).size).toBe(12);
  });
});
