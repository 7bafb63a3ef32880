import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { readGrayPicture, readPicture } from '../../src/formats/picture.ts';
import { encodePng, readPngTexts } from '../../src/formats/png.ts';

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
          writeFileSync(file, encodePng({ width, height, data }, texts));
          // sharp is the other implementation.
          expect(await readPicture(file)).toEqual({ width, height, data });
          expect(Object.fromEntries(await readPngTexts(file))).toEqual(texts);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('is refused when damaged, cut off, or no PNG at all', async () => {
    const bytes = Buffer.from(encodePng({ width: 2, height: 1, data: new Uint8Array(6) }, { a: 'text' }));
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

  it('is read as brightness for masks', async () => {
    writeFileSync(file, encodePng({ width: 2, height: 1, data: Uint8Array.of(255, 255, 255, 0, 0, 0) }));
    expect(await readGrayPicture(file)).toEqual({ width: 2, height: 1, data: Uint8Array.of(255, 0) });
    expect(readFileSync(file).subarray(1, 4).toString()).toBe('PNG');
  });
});
