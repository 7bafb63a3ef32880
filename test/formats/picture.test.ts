import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pictureSize, readAlphaChannel, readGrayPicture, readPicture } from '../../src/formats/picture.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-picture-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** A picture of 16 × 8 stored pixels, red on its left half, blue on its right. */
async function stored(name: string, orientation: number): Promise<string> {
  const file = path.join(folder, name);
  const data = new Uint8Array(16 * 8 * 3);
  for (let i = 0; i < 16 * 8; i++) data[3 * i + (i % 16 < 8 ? 0 : 2)] = 255;
  await sharp(data, { raw: { width: 16, height: 8, channels: 3 } })
    .withMetadata({ orientation })
    .toFile(file);
  return file;
}

/** What EXIF says: where the stored left edge is in the upright picture. */
const UPRIGHT = [
  [1, 'left'],
  [2, 'right'],
  [3, 'right'],
  [4, 'left'],
  [5, 'top'],
  [6, 'top'],
  [7, 'bottom'],
  [8, 'bottom'],
] as const;

describe('a photo of a turned camera', () => {
  it.each(UPRIGHT)('with orientation %i is read upright, red %s', async (orientation, side) => {
    const file = await stored(`turned-${orientation}.png`, orientation);
    const turned = side === 'top' || side === 'bottom';
    const size = turned ? { width: 8, height: 16 } : { width: 16, height: 8 };
    expect(await pictureSize(file)).toEqual(size);
    const picture = await readPicture(file);
    expect([picture.width, picture.height]).toEqual([size.width, size.height]);
    const redAt = (x: number, y: number): boolean => picture.data[3 * (y * size.width + x)]! > 127;
    const [right, bottom] = [size.width - 1, size.height - 1];
    expect([redAt(0, 0), redAt(right, 0), redAt(0, bottom), redAt(right, bottom)]).toEqual(
      { left: [1, 0, 1, 0], right: [0, 1, 0, 1], top: [1, 1, 0, 0], bottom: [0, 0, 1, 1] }[side].map(Boolean),
    );
  });

  it('is turned before it is resized, and so are its brightness and transparency', async () => {
    const file = await stored('resized.jpg', 6);
    const picture = await readPicture(file, { width: 4, height: 8 });
    expect([picture.width, picture.height]).toEqual([4, 8]);
    expect(picture.data[0]).toBeGreaterThan(200);
    expect(picture.data[3 * (7 * 4)]).toBeLessThan(60);
    const gray = await readGrayPicture(file, { width: 4, height: 8 });
    expect([gray.width, gray.height]).toEqual([4, 8]);
    const clear = path.join(folder, 'clear.png');
    await sharp({
      create: { width: 16, height: 8, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0.5 } },
    })
      .withMetadata({ orientation: 6 })
      .toFile(clear);
    const alpha = await readAlphaChannel(clear);
    expect([alpha!.width, alpha!.height]).toEqual([8, 16]);
  });
});
