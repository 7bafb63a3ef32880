import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import zlib from 'node:zlib';
import fc from 'fast-check';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import { FormatError, ShapeError, UsageError } from '../../src/errors.ts';
import { pictureSize, readAlphaChannel, readGrayPicture, readPicture } from '../../src/formats/picture.ts';
import { encodePng, readPngTexts } from '../../src/formats/png.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'edlora-png-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = path.join(folder, 'picture.png');

describe('PNG', () => {
  it('carries pixels and texts that others read', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 20 }),
        fc.infiniteStream(fc.nat(255)),
        fc.dictionary(
          fc.stringMatching(/^[a-z.]{1,20}$/).filter((keyword) => keyword !== '__proto__'),
          fc.string({ unit: 'binary' }).filter((text) => !text.includes('\0')),
          { maxKeys: 3, noNullPrototype: true },
        ),
        async (width, height, stream, texts) => {
          const data = Uint8Array.from({ length: width * height * 3 }, () => stream.next().value!);
          writeFileSync(file, await encodePng({ width, height, data }, texts));
          // sharp is the other implementation.
          expect(await readPicture(file)).toEqual({ width, height, data });
          expect(Object.fromEntries(await readPngTexts(file))).toEqual(texts);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('is refused when damaged, cut off, or no PNG at all', async () => {
    const bytes = Buffer.from(
      await encodePng({ width: 2, height: 1, data: new Uint8Array(6) }, { a: 'text' }),
    );
    const refused = async (content: Uint8Array, message: RegExp): Promise<void> => {
      writeFileSync(file, content);
      await expect(readPngTexts(file)).rejects.toThrow(message);
      await expect(readPngTexts(file)).rejects.toThrow(FormatError);
    };
    await refused(Buffer.from('GIF89a..........'), /expected a PNG/);
    await refused(bytes.subarray(0, 40), /cut off/);
    const flipped = Buffer.from(bytes);
    flipped[45]! ^= 1;
    await refused(flipped, /checksum/);
    await expect(readPicture(path.join(folder, 'none.png'))).rejects.toThrow(FormatError);
  });

  it('texts that PNG cannot hold are written as U+FFFD, more than is read again is refused', async () => {
    const one = { width: 1, height: 1, data: new Uint8Array(3) };
    writeFileSync(file, await encodePng(one, { a: 'x\0y', b: '\ud83d é', c: '😀' }));
    expect(Object.fromEntries(await readPngTexts(file))).toEqual({ a: 'x\ufffdy', b: '\ufffd é', c: '😀' });
    await expect(encodePng(one, { a: 'x'.repeat(9e6), b: 'x'.repeat(9e6) })).rejects.toThrow(
      /at most 16777216 bytes together, got 18000000/,
    );
    await expect(encodePng(one, { a: 'x'.repeat(9e6), b: 'x'.repeat(9e6) })).rejects.toThrow(UsageError);
    await expect(encodePng({ ...one, width: 2 })).rejects.toThrow(ShapeError);
  });

  it('filters each row as leaves least of it', async () => {
    // What the specification predicts a byte by: nothing, left, up, their mean, and Paeth's choice (third edition, 9.2).
    const predictors: ((a: number, b: number, c: number) => number)[] = [
      () => 0,
      (a) => a,
      (_, b) => b,
      (a, b) => Math.floor((a + b) / 2),
      (a, b, c) => {
        const p = a + b - c;
        return [a, b, c].toSorted((x, y) => Math.abs(p - x) - Math.abs(p - y))[0]!;
      },
    ];
    const [width, stride] = [40, 120];
    const random = new TorchGenerator(3);
    const filters = [1, 0, 4, 2, 3, 1, 4, 0, 3, 2];
    const data = new Uint8Array(filters.length * stride);
    filters.forEach((filter, y) => {
      // Little is left by its own filter, in either direction; a first row of noise tells the others apart.
      const left = random.randint(filter === 0 ? -2 : -1, filter === 0 ? 3 : 2, stride);
      for (let x = 0; x < stride; x++) {
        const at = y * stride + x;
        const [a, b] = [x < 3 ? 0 : data[at - 3]!, y === 0 ? 0 : data[at - stride]!];
        const c = x < 3 || y === 0 ? 0 : data[at - stride - 3]!;
        const noise = y === 0 && x % 24 < 3 ? 90 : 0;
        data[at] = predictors[filter]!(a, b, c) + left[x]! + noise;
      }
    });
    const bytes = Buffer.from(await encodePng({ width, height: filters.length, data }));
    const begin = bytes.indexOf('IDAT') + 4;
    const rows = zlib.inflateSync(bytes.subarray(begin, begin + bytes.readUInt32BE(begin - 8)));
    const cost = (y: number, filter: number): number => {
      let sum = 0;
      for (let x = 0; x < stride; x++) {
        const at = y * stride + x;
        const [a, b] = [x < 3 ? 0 : data[at - 3]!, y === 0 ? 0 : data[at - stride]!];
        const c = x < 3 || y === 0 ? 0 : data[at - stride - 3]!;
        sum += Math.abs(((data[at]! - predictors[filter]!(a, b, c)) << 24) >> 24);
      }
      return sum;
    };
    const chosen = filters.map((_, y) => rows[y * (stride + 1)]!);
    for (const [y, filter] of chosen.entries())
      expect(cost(y, filter), `row ${y}`).toBe(Math.min(...predictors.map((_, other) => cost(y, other))));
    expect(new Set(chosen)).toEqual(new Set([0, 1, 2, 3, 4]));
  });

  it('is read as brightness for masks', async () => {
    writeFileSync(
      file,
      await encodePng({ width: 2, height: 1, data: Uint8Array.of(255, 255, 255, 0, 0, 0) }),
    );
    expect(await readGrayPicture(file)).toEqual({ width: 2, height: 1, data: Uint8Array.of(255, 0) });
    expect(readFileSync(file).subarray(1, 4).toString()).toBe('PNG');
  });
});

describe('pictures that cost more than their file', () => {
  const signature = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
  const chunk = (type: string, content: Uint8Array): Buffer => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), content]);
    const ends = Buffer.alloc(8);
    ends.writeUInt32BE(content.length, 0);
    ends.writeUInt32BE(zlib.crc32(body), 4);
    return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
  };
  const header = (width: number, height: number): Buffer => {
    const bytes = Buffer.alloc(13);
    bytes.writeUInt32BE(width, 0);
    bytes.writeUInt32BE(height, 4);
    bytes.set([8, 2, 0, 0, 0], 8);
    return chunk('IHDR', bytes);
  };
  const end = chunk('IEND', new Uint8Array(0));

  it('a small PNG of many pixels is refused with both numbers, before it is decoded', async () => {
    writeFileSync(
      file,
      Buffer.concat([signature, header(16384, 16384), chunk('IDAT', zlib.deflateSync('')), end]),
    );
    for (const read of [readPicture, readGrayPicture, readAlphaChannel, pictureSize]) {
      await expect(read(file)).rejects.toThrow(
        /at most 167\d{5} pixels in 65 bytes, got 16384 × 16384 = 268435456/,
      );
    }
  });

  it('so is a flat WebP or JPEG', async () => {
    const flat = sharp({ create: { width: 9000, height: 9000, channels: 3, background: 'black' } });
    for (const picture of [
      flat.clone().webp({ lossless: true }),
      flat.clone().jpeg({ quality: 1, progressive: true }),
    ]) {
      const bytes = await picture.toBuffer();
      writeFileSync(file, bytes.subarray(0, 10_000));
      await expect(readPicture(file)).rejects.toThrow(/at most \d+ pixels in \d+ bytes, got 9000 × 9000/);
    }
  }, 20_000);

  it('an ordinary flat mask is read', async () => {
    const flat = { width: 4096, height: 4096, channels: 3, background: 'white' } as const;
    writeFileSync(file, await sharp({ create: flat }).toColourspace('b-w').png().toBuffer());
    expect((await readGrayPicture(file)).data.every((value) => value === 255)).toBe(true);
  });

  it('texts are unpacked up to a limit together', async () => {
    const packed = zlib.deflateSync(Buffer.alloc(2e6));
    for (const [type, between] of [
      ['zTXt', '\0\0'],
      ['iTXt', '\0\x01\0\0\0'],
    ] as const) {
      const texts = Array.from({ length: 10 }, (_, i) =>
        chunk(type, Buffer.concat([Buffer.from(`k${i}${between}`, 'latin1'), packed])),
      );
      const bytes = Buffer.concat([signature, header(1, 1), ...texts, end]);
      writeFileSync(file, bytes);
      const allowed = 2 ** 20 + 64 * bytes.length;
      await expect(readPngTexts(file)).rejects.toThrow(
        `${bytes.length} bytes of PNG: expected texts of at most ${allowed}`,
      );
      writeFileSync(
        file,
        Buffer.concat([signature, header(1, 1), chunk('tEXt', Buffer.alloc(17e6, 'a')), end]),
      );
      await expect(readPngTexts(file)).rejects.toThrow(
        /at most 16777216 bytes together, got a packed one of 17000000/,
      );
    }
  });

  it('other kinds of pictures are not handed to the decoder, whatever their name', async () => {
    for (const content of [
      '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
      'GIF89a',
      'II*\0',
      'BM',
      '',
    ]) {
      writeFileSync(file, content);
      await expect(readPicture(file)).rejects.toThrow(/expected a picture \(PNG, JPEG or WebP\)/);
      await expect(readPicture(file)).rejects.toThrow(FormatError);
    }
    await expect(readPicture('/dev/zero')).rejects.toThrow(/device/);
    await expect(readPngTexts('/dev/zero')).rejects.toThrow(/device/);
  });
});
