import { existsSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError, ShapeError, UsageError } from '../../src/errors.ts';
import {
  byteRangeOf,
  computedTensor,
  float32Tensor,
  readBytes,
  readFloat32,
  renamed,
} from '../../src/formats/raw-tensor.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { scratchFolder } from './scratch-folder.ts';
import { randomTensors, tensorName } from './weights.ts';

const scratch = scratchFolder();

/** A file with the given header text and data, as an attacker could write it. */
function forge(header: string, data: Uint8Array = new Uint8Array(0)): string {
  const text = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = scratch('forged.safetensors');
  writeFileSync(file, Buffer.concat([length, text, data]));
  return file;
}

describe('writing and reading back', () => {
  it('keeps names, dtypes, shapes, bytes and metadata', async () => {
    const file = scratch('random.safetensors');
    const labels = fc.uniqueArray(fc.tuple(tensorName, tensorName), {
      maxLength: 4,
      selector: ([key]) => key,
    });
    await fc.assert(
      fc.asyncProperty(randomTensors(), labels, async (tensors, metadata) => {
        await writeSafetensors(file, tensors, new Map(metadata));
        const read = await openSafetensors(file);
        expect([...read.metadata]).toEqual(metadata);
        expect(new Set(read.tensors.keys())).toEqual(new Set(tensors.map(({ name }) => name)));
        for (const tensor of tensors) {
          const copy = read.tensors.get(tensor.name)!;
          expect([copy.dtype, copy.shape]).toEqual([tensor.dtype, tensor.shape]);
          expect(Buffer.from(readBytes(copy))).toEqual(Buffer.from(readBytes(tensor)));
        }
      }),
      { numRuns: 60 },
    );
  });

  it('is not taken for a pickle when the header length begins with 0x80', async () => {
    const file = scratch('length-128.safetensors');
    const tensor = float32Tensor('', [1], Float32Array.of(1));
    const bare = '{"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.length;
    for (const length of [128, 0x7b]) {
      const name = 'n'.repeat(length - bare);
      const header = `{"${name}":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`;
      expect(header.length).toBe(length);
      const forged = forge(header, new Uint8Array(4));
      expect((await openSafetensors(forged)).tensors.has(name)).toBe(true);
      await writeSafetensors(file, [renamed(tensor, name)]);
      expect(readFloat32((await openSafetensors(file)).tensors.get(name)!)).toEqual(Float32Array.of(1));
    }
  });

  it('says where the bytes are', async () => {
    const file = scratch('place.safetensors');
    await writeSafetensors(file, [float32Tensor('w', [2, 2], Float32Array.of(1, 2, 3, 4))]);
    const tensor = (await openSafetensors(file)).tensors.get('w')!;
    const range = byteRangeOf(tensor)!;
    expect(range.file).toBe(file);
    expect(range.length).toBe(16);
    expect(range.offset % 8).toBe(0);
    expect(byteRangeOf({ ...tensor, strides: [1, 2] })).toBeNull();
  });

  it('refuses two tensors of one name, and broken Unicode', async () => {
    const tensor = float32Tensor('w', [1], Float32Array.of(1));
    const file = scratch('never.safetensors');
    await expect(writeSafetensors(file, [tensor, tensor])).rejects.toThrow(UsageError);
    await expect(writeSafetensors(file, [renamed(tensor, '__metadata__')])).rejects.toThrow(UsageError);
    await expect(writeSafetensors(file, [renamed(tensor, '\ud800')])).rejects.toThrow(UsageError);
    await expect(writeSafetensors(file, [tensor], { note: '\udc00' })).rejects.toThrow(UsageError);
  });
});

describe('what could not be read again is not written', () => {
  const tensor = float32Tensor('w', [2], Float32Array.of(1, 2));
  const twin = (changes: object) => ({ ...tensor, ...changes }) as typeof tensor;
  const short = { ...tensor.storage, read: (begin: number, end: number) => new Uint8Array(end - begin - 1) };

  it.each([
    ['a dtype of no file', [twin({ dtype: 'F99' })], {}, /whole number/],
    ['a negative size', [twin({ shape: [-1] })], {}, /whole number/],
    ['half a size', [twin({ shape: [0.5] })], {}, /whole number/],
    ['a size of NaN', [twin({ shape: [Number.NaN] })], {}, /whole number/],
    ['half a byte', [twin({ dtype: 'F4', shape: [1] })], {}, /whole number|needs 0.5 bytes/],
    ['65 dimensions', [twin({ shape: new Array<number>(65).fill(1) })], {}, /at most 64/],
    ['a name of 5,000 characters', [twin({ name: 'n'.repeat(5000) })], {}, /4096/],
    ['half a character in metadata', [tensor], { '\ud800': 'a' }, /Unicode/],
    [
      'a header over 100 MB',
      [tensor],
      { a: 'x'.repeat(6e7), b: '\x01'.repeat(1e7) },
      /100000000 bytes, got 1200/,
    ],
  ])('%s', async (_, tensors, metadata, message) => {
    const file = scratch('unreadable.safetensors');
    const writing = writeSafetensors(file, tensors, metadata as Record<string, string>);
    await expect(writing).rejects.toThrow(UsageError);
    await expect(writing).rejects.toThrow(message);
    expect(existsSync(file)).toBe(false);
  });

  it('nor bytes that are fewer or more than the shape says', async () => {
    const file = scratch('unreadable.safetensors');
    const computed = (bytes: number) => computedTensor('w', 'F32', [2], () => new Uint8Array(bytes));
    for (const wrong of [twin({ storage: short }), computed(4), computed(12)]) {
      await expect(writeSafetensors(file, [wrong])).rejects.toThrow(ShapeError);
      await expect(writeTorchZip(file, torchTensor(wrong))).rejects.toThrow(ShapeError);
      expect(existsSync(file)).toBe(false);
    }
    await writeSafetensors(file, [computed(8)]);
    expect((await openSafetensors(file)).tensors.size).toBe(1);
  });
});

describe('headers that the reference library reads', () => {
  // Each read by safetensors 0.8.0 for Python.
  const plain = '{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}';
  const also = (entry: string): string => plain.replace(/}$/, `,${entry}}`);
  it.each([
    ['blanks in front', ` ${plain}`],
    ['a line in front', `\n\t${plain}`],
    ['blanks behind', `${plain} \n`],
    ['no metadata', `{"__metadata__":null,${plain.slice(1)}`],
    ['empty metadata', `{"__metadata__":{},${plain.slice(1)}`],
    ['fields of other programs', plain.replace('"dtype"', '"x":{"y":[1,null]},"dtype"')],
    ['a name with escapes', plain.replace('"w"', '"\\u0077"')],
    ['an empty tensor behind', also('"e":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}')],
    ['an empty tensor in front', also('"e":{"dtype":"I64","shape":[2,0],"data_offsets":[0,0]}')],
  ])('%s', async (_, header) => {
    const { tensors } = await openSafetensors(forge(header, new Uint8Array(4)));
    expect([...tensors.keys()].filter((name) => name !== 'e')).toEqual(['w']);
  });
});

describe('refusals', () => {
  const entry = (fields: string) => `{"w":{${fields}}}`;
  const good = '"dtype":"F32","shape":[2],"data_offsets":[0,8]';

  it.each([
    ['the same field twice', entry(`${good},"dtype":"F32"`), /"dtype" occurs twice/],
    [
      'three offsets',
      entry('"dtype":"F32","shape":[2],"data_offsets":[0,8,8]'),
      /data_offsets \[begin, end\]/,
    ],
    ['an exponent', entry('"dtype":"F32","shape":[2e0],"data_offsets":[0,8]'), /whole number/],
    ['a leading zero', entry('"dtype":"F32","shape":[02],"data_offsets":[0,8]'), /whole number|expected "]"/],
    ['a trailing comma', entry(`${good},`), /expected a string/],
    ['a raw line break in a name', `{"w\n":{${good}}}`, /JSON string/],
    ['half a byte', entry('"dtype":"F4","shape":[1],"data_offsets":[0,1]'), /needs 0.5 bytes/],
    ['an escaped duplicate', `{"w":{${good}},"\\u0077":{${good}}}`, /"w" occurs twice/],
    ['a second document', `${entry(good)}{}`, /the end of the header/],
  ])('%s', async (_, header, message) => {
    const opening = openSafetensors(forge(header, new Uint8Array(8)));
    await expect(opening).rejects.toThrow(FormatError);
    await expect(opening).rejects.toThrow(message);
  });

  it('names expected and actual size of a truncated download', async () => {
    const file = forge(entry(good), new Uint8Array(5));
    const whole = 8 + entry(good).length + 8;
    await expect(openSafetensors(file)).rejects.toThrow(
      `expected ${whole} bytes by its header, got ${whole - 3}; truncated download`,
    );
  });

  it('notices that the file shrank after it was opened', async () => {
    const file = forge(entry(good), new Uint8Array(8));
    const tensor = (await openSafetensors(file)).tensors.get('w')!;
    forge(entry(good), new Uint8Array(4));
    expect(() => readFloat32(tensor)).toThrow(/changed since it was opened/);
  });
});
