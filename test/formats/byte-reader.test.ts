import { writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { ByteReader, fileStorage, memoryStorage } from '../../src/formats/byte-reader.ts';
import { locateFile } from '../../src/io/file-range.ts';
import { scratch } from '../support/scratch.ts';

const bytesOf = (...values: number[]): ByteReader =>
  ByteReader.ofBytes('a.bin', 'part', Uint8Array.from(values));

describe('a reader of bytes', () => {
  it('reads each kind of number in its order of bytes', () => {
    const all = [0x81, 0x02, 0x03, 0x84, 0x05, 0x06, 0x07, 0x88];
    const view = new DataView(Uint8Array.from(all).buffer);
    expect(bytesOf(...all).u8()).toBe(0x81);
    expect(bytesOf(...all).u16()).toBe(0x0281);
    expect(bytesOf(...all).u32()).toBe(0x84030281);
    expect(bytesOf(...all).u32BigEndian()).toBe(0x81020384);
    expect(bytesOf(...all).i32()).toBe(0x84030281 - 2 ** 32);
    expect(bytesOf(...all).u64()).toBe(0x8807060584030281n);
    expect(bytesOf(...all).i64()).toBe(0x8807060584030281n - 2n ** 64n);
    expect(bytesOf(...all).f64BigEndian()).toBe(view.getFloat64(0));
  });

  it('goes on behind what it read, up to the end and no further', () => {
    const reader = bytesOf(1, 2, 3, 4, 5);
    expect([reader.position, reader.remaining]).toEqual([0, 5]);
    expect([...reader.bytes(2)]).toEqual([1, 2]);
    reader.skip(1);
    expect([reader.position, reader.remaining]).toEqual([3, 2]);
    expect(() => reader.bytes(3)).toThrow('part, byte 3: expected 3 more bytes, got 2; truncated file?');
    expect(() => reader.skip(3)).toThrow(FormatError);
    expect(() => reader.bytes(Number.NaN)).toThrow(FormatError);
    expect(reader.u16()).toBe(0x0504);
    expect([...reader.bytes(0)]).toEqual([]);
    expect(() => reader.u8()).toThrow(FormatError);
  });

  it('reads lines up to a limit, without their feed', () => {
    const reader = bytesOf(65, 66, 10, 10, 67, 10);
    expect([...reader.line(2)]).toEqual([65, 66]);
    expect([...reader.line(0)]).toEqual([]);
    expect(() => reader.line(0)).toThrow(/a line of at most 0 bytes/);
    expect(() => bytesOf(65).line(5)).toThrow(/truncated/);
  });

  it('fetches a file in windows, from its beginning to its end, and shows the same bytes', () => {
    const length = 3 * 65_536 + 5;
    const all = Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 255);
    const fetched: [number, number][] = [];
    const reader = new ByteReader('a', 'b', 10, length - 1, (begin, end) => {
      fetched.push([begin, end]);
      return all.subarray(begin, end);
    });
    const read = [reader.bytes(3), reader.bytes(65_533), reader.bytes(65_537), reader.bytes(1)];
    expect(fetched).toEqual([
      [10, 65_546],
      [65_546, 131_083],
      [131_083, length - 1],
    ]);
    expect(Buffer.concat(read).equals(all.subarray(10, 10 + 131_074))).toBe(true);
  });

  it('of a file starts where it is told', () => {
    const file = scratch('bytes.bin');
    writeFileSync(file, Uint8Array.of(9, 8, 7, 6));
    const source = locateFile(file);
    expect([...ByteReader.ofFile('x', source, 'p', 1, 3).bytes(2)]).toEqual([8, 7]);
    const storage = fileStorage(source, 1, 3);
    expect([...storage.read(1, 3)]).toEqual([7, 6]);
    expect(storage.range).toEqual({ file: source.path, offset: 1, length: 3 });
    const inMemory = memoryStorage(Uint8Array.of(5, 4, 3));
    expect([inMemory.sizeBytes, inMemory.range, ...inMemory.read(1, 2)]).toEqual([3, null, 4]);
  });
});
