import { readFileSync, writeFileSync } from 'node:fs';
import zlib from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { byteRangeOf, float32Tensor } from '../../src/formats/raw-tensor.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { readZipDirectory, type ZipEntry, zipStorage } from '../../src/formats/zip-archive.ts';
import { locateFile } from '../../src/io/file-range.ts';
import { inOneGo } from '../../src/pace.ts';
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
    expect(() => inOneGo(storage().verify!())).toThrow(FormatError);
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

describe('a declared size', () => {
  /** A zip of one entry with 4 bytes in the file, which says that they become `sizeBytes`. */
  function zipOf(method: 0 | 8, sizeBytes: number): string {
    const name = Buffer.from('w');
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(method, 4);
    common.writeUInt32LE(4, 14);
    common.writeUInt32LE(sizeBytes, 18);
    common.writeUInt16LE(name.length, 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, name, Buffer.alloc(4)]);
    const central = Buffer.concat([
      Buffer.from('PK\x01\x02'),
      Buffer.from([20, 0]),
      common,
      Buffer.alloc(14),
      name,
    ]);
    const end = Buffer.alloc(22);
    end.write('PK\x05\x06', 'latin1');
    end.writeUInt16LE(1, 8);
    end.writeUInt16LE(1, 10);
    end.writeUInt32LE(central.length, 12);
    end.writeUInt32LE(local.length, 16);
    const file = scratch(`declared-${method}-${sizeBytes}`);
    writeFileSync(file, Buffer.concat([local, central, end]));
    return file;
  }
  const read = async (file: string) => (await readZipDirectory(file, locateFile(file))).get('w');

  it('is believed as far as deflate can reach, 1032 times the bytes in the file', async () => {
    expect(await read(zipOf(8, 4 * 1032))).toMatchObject({ compressed: true, sizeBytes: 4 * 1032 });
    await expect(read(zipOf(8, 4 * 1032 + 1))).rejects.toThrow(
      '4 deflated bytes cannot hold the declared 4129',
    );
    expect(await read(zipOf(0, 4))).toMatchObject({ compressed: false, sizeBytes: 4 });
  });
});
