/** The browser's reading of zip directories against yauzl's. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { zipRecords as inBrowser } from '../../src/formats/zip-records.browser.ts';
import { zipRecords as inNode, type ZipRecord } from '../../src/formats/zip-records.ts';
import { locateFile } from '../../src/io/file-range.ts';
import { packageRoot } from '../../src/package-root.ts';
import { scratchFolder } from './scratch-folder.ts';

const scratch = scratchFolder();

/** What is read, `null` if it is refused. */
async function recordsOf(read: typeof inNode, file: string, most = 50_000): Promise<object[] | null> {
  const records: object[] = [];
  try {
    for await (const record of read(file, locateFile(file), most)) records.push(plain(record));
  } catch {
    return null;
  }
  return records;
}

const plain = (record: ZipRecord): object => ({
  name: record.fileName,
  raw: Buffer.from(record.fileNameRaw).toString('hex'),
  sizes: [record.compressedSize, record.uncompressedSize, record.relativeOffsetOfLocalHeader],
  other: [record.compressionMethod, record.crc32, record.generalPurposeBitFlag],
});

const folders = ['fixtures/tiny-world/concepts', 'fixtures/goldens/formats', 'fixtures/goldens/hostile'].map(
  (folder) => path.join(packageRoot(), folder),
);
const zips = folders
  .flatMap((folder) =>
    readdirSync(folder, { recursive: true }).map((name) => path.join(folder, String(name))),
  )
  .filter((file) => /\.(pth|pt|bin|ckpt|zip)$/.test(file));

describe('records of zip files, in a browser', () => {
  it.each(zips)('are those of yauzl: %s', async (file) => {
    const node = await recordsOf(inNode, file);
    expect(await recordsOf(inBrowser, file)).toEqual(node);
  });

  it('of a damaged directory are refused where yauzl refuses them, and else the same', async () => {
    const whole = readFileSync(path.join(packageRoot(), 'fixtures/tiny-world/concepts/edlora_smiley.pth'));
    const file = scratch('damaged.pth');
    await fc.assert(
      fc.asyncProperty(fc.nat(400), fc.integer({ min: 1, max: 255 }), async (fromEnd, change) => {
        const bytes = Buffer.from(whole);
        bytes[bytes.length - 1 - fromEnd]! ^= change;
        writeFileSync(file, bytes);
        const [node, browser] = [await recordsOf(inNode, file), await recordsOf(inBrowser, file)];
        if (browser !== null) expect(browser).toEqual(node);
      }),
      { numRuns: 150 },
    );
  });

  it('are no more than allowed', async () => {
    const file = path.join(packageRoot(), 'fixtures/tiny-world/concepts/edlora_smiley.pth');
    const { length } = (await recordsOf(inBrowser, file))!;
    expect(await recordsOf(inBrowser, file, length - 1)).toBe(null);
  });
});
