import { readFileSync, writeFileSync } from 'node:fs';
import zlib from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { locateFile } from '../../src/formats/byte-reader.ts';
import { byteRangeOf, float32Tensor } from '../../src/formats/raw-tensor.ts';
import { openTensorFile } from '../../src/formats/tensor-file.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { readZipDirectory, type ZipEntry, zipStorage } from '../../src/formats/zip-archive.ts';
import { scratchFolder } from './scratch-folder.ts';

const scratch = scratchFolder();
const numbers = Float32Array.from({ length: 64 }, (_, i) => i);

/** A torch zip of one tensor and the entry of its storage. */
async function archive(name: string): Promise<{ file: string; entry: ZipEntry }> {
  const file = scratch(name);
  await writeTorchZip(file, new Map([['w', torchTensor(float32Tensor('w', [64], numbers))]]));
  const entry = (await readZipDirectory(file, locateFile(file))).get('archive/data/0')!;
  return { file, entry };
}

describe('checksums', () => {
  it('are compared before any part of a storage is handed out', async () => {
    const { file, entry } = await archive('flipped.pth');
    const bytes = readFileSync(file);
    bytes[entry.dataStart + 200]! ^= 1;
    writeFileSync(file, bytes);
    const storage = () => zipStorage(file, locateFile(file), entry);
    expect(() => storage().read(0, 4)).toThrow(/expected checksum/);
    expect(() => storage().read(0, entry.sizeBytes)).toThrow(/expected checksum/);
    expect(() => storage().verify!()).toThrow(FormatError);
    const tensor = { ...float32Tensor('w', [64], numbers), storage: storage() };
    expect(() => byteRangeOf(tensor)).toThrow(/expected checksum/);
    await expect(openTensorFile(file)).rejects.toThrow(/"archive\/data\/0": expected checksum/);
  });

  it('hold for whole, partial and inflated reads alike', async () => {
    const { file, entry } = await archive('good.pth');
    const stored = zipStorage(file, locateFile(file), entry);
    expect([...new Float32Array(stored.read(4, 12).slice().buffer)]).toEqual([1, 2]);
    expect(stored.range).toEqual({ file, offset: entry.dataStart, length: 256 });

    const bytes = new Uint8Array(numbers.buffer);
    const raw = zlib.deflateRawSync(bytes);
    writeFileSync(scratch('deflated'), raw);
    const deflated = { ...entry, compressed: true, dataStart: 0, compressedBytes: raw.length };
    const inflated = zipStorage(file, locateFile(scratch('deflated')), deflated);
    expect(inflated.range).toBeNull();
    expect(Buffer.from(inflated.read(4, 256))).toEqual(Buffer.from(bytes.subarray(4)));
  });
});

describe('sizes', () => {
  it.each([-1, 1])('a deflate stream that differs from its declared size by %i is refused', (difference) => {
    const bytes = new Uint8Array(1000);
    const raw = zlib.deflateRawSync(bytes);
    const file = scratch('lie');
    writeFileSync(file, raw);
    const storage = zipStorage(file, locateFile(file), {
      name: 'w',
      compressed: true,
      dataStart: 0,
      compressedBytes: raw.length,
      sizeBytes: 1000 + difference,
      crc32: zlib.crc32(bytes),
    });
    expect(() => storage.read(0, 10)).toThrow(/bytes, got/);
  });
});
