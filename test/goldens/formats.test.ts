/**
 * Every file of `goldens/formats`: bytes, shapes, views and plain values as Python reads them.
 */
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { type DType, decodeFloat32, encodeFloat, isDecodable } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { type RawTensor, readBytes, readFloat32, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts';
import { TORCH_DTYPE_NAMES } from '../../src/formats/torch-dtypes.ts';
import type { TorchTensor, TorchValue } from '../../src/formats/torch-value.ts';
import { writeTorchZip } from '../../src/formats/torch-writer.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

const scratch = mkdtempSync(path.join(tmpdir(), 'edlora-formats-'));
afterAll(() => rmSync(scratch, { recursive: true }));

interface TorchCase {
  note: string;
  expected_json: string;
  expected_tensors: string;
}

/** The tagged structure of `expected/*.json`; see the goldens' README. */
type Tagged = null | boolean | number | string | { [tag: string]: unknown };

/** A value of ours in the goldens' notation; tensors are collected in the order of the visit. */
function tagged(value: TorchValue, tensors: TorchTensor[]): Tagged {
  const all = (items: readonly TorchValue[]) => items.map((item) => tagged(item, tensors));
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
  if (typeof value === 'bigint') return { $int: String(value) };
  if (typeof value === 'number') {
    return Number.isFinite(value)
      ? value
      : { $float: String(value).replace('Infinity', 'inf').toLowerCase() };
  }
  if (value instanceof Uint8Array) return { $bytes_hex: Buffer.from(value).toString('hex') };
  if (Array.isArray(value)) return { $list: all(value) };
  if (value instanceof Map) return { $dict: [...value].map(all) };
  switch (value.kind) {
    case 'tuple':
      return { $tuple: all(value.items) };
    case 'set':
      return { $set: all(value.items) };
    case 'size':
      return { $size: value.sizes };
    case 'dtype':
      return { $dtype: value.name };
    case 'reference':
      return { $reference: value.name };
    case 'tensor': {
      const { tensor, parameter, requiresGrad } = value;
      const name = `t${tensors.push(value) - 1}`;
      return {
        $tensor: name,
        dtype: TORCH_DTYPE_NAMES.get(tensor.dtype)!,
        shape: tensor.shape,
        stride: tensor.strides,
        storage_offset: tensor.storageOffset,
        ...(parameter && { parameter }),
        ...(requiresGrad && { requires_grad: requiresGrad }),
      };
    }
  }
}

/** The index tells OrderedDicts from dicts; both are Maps here. JSON writes −0.0 as 0. */
function normalized(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(normalized);
  if (typeof value !== 'object' || value === null) return Object.is(value, -0) ? 0 : value;
  const entries = Object.entries(value).map(([key, item]) => [
    key === '$odict' ? '$dict' : key,
    normalized(item),
  ]);
  return Object.fromEntries(entries);
}

/** Of a dictionary, the entries that the golden names; it leaves out classes that only Python has. */
function keepExpected(root: TorchValue, expected: Record<string, unknown>): TorchValue {
  if (!(root instanceof Map) || !Array.isArray(expected.$dict)) return root;
  return new Map(expected.$dict.map(([key]: [string]) => [key, root.get(key)!]));
}

describe('torch files', () => {
  const cases = goldenJson<Record<string, TorchCase>>('goldens/formats/formats.json');

  for (const [name, { note, expected_json, expected_tensors }] of Object.entries(cases)) {
    const load = async () => {
      const { root } = await openTensorFile(goldenPath('goldens/formats', name));
      const expected = goldenJson<Record<string, unknown>>('goldens/formats', expected_json);
      const partial = /inert markers/.test(note);
      return { expected, root: partial ? keepExpected(root!, expected) : root! };
    };

    const expectSame = async (root: TorchValue, expected: unknown) => {
      const tensors: TorchTensor[] = [];
      expect(normalized(tagged(root, tensors))).toEqual(normalized(expected));
      const values = (await openTensorFile(goldenPath('goldens/formats', expected_tensors))).tensors;
      expect(tensors.length).toBe(values.size);
      for (const [i, { tensor }] of tensors.entries()) {
        const golden = values.get(`t${i}`)!;
        expect(tensor.dtype).toBe(golden.dtype);
        expect(Buffer.from(readBytes(tensor))).toEqual(Buffer.from(readBytes(golden)));
      }
    };

    it(`${name}: ${note}`, async () => {
      const { root, expected } = await load();
      await expectSame(root, expected);
      expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
    });

    it(`${name}: the same after writing it as a torch zip`, async () => {
      const { root, expected } = await load();
      const copy = path.join(scratch, `${name}.zip`);
      await writeTorchZip(copy, root);
      const tensors: TorchTensor[] = [];
      const originals: TorchTensor[] = [];
      const written = (await openTensorFile(copy)).root!;
      const rewritten = normalized(tagged(written, tensors));
      // Views become contiguous storages of their own; all else stays.
      const contiguous = { stride: undefined, storage_offset: undefined };
      const withoutLayout = (value: unknown): unknown =>
        JSON.parse(JSON.stringify(value, (_, item) => (item?.$tensor ? { ...item, ...contiguous } : item)));
      expect(withoutLayout(rewritten)).toEqual(withoutLayout(normalized(expected)));
      tagged(root, originals);
      for (const [i, { tensor }] of tensors.entries()) {
        expect(Buffer.from(readBytes(tensor))).toEqual(Buffer.from(readBytes(originals[i]!.tensor)));
      }
    });
  }

  it('covers the index', () => expect(Object.keys(cases).length).toBeGreaterThan(0));
});

interface SafetensorsCase {
  header_bytes: number;
  metadata: Record<string, string> | null;
  tensors: Record<string, { dtype: string; shape: number[]; nbytes: number; sha256: string }>;
  note: string;
  values?: Record<string, (number | string)[]>;
  values_row_major?: Record<string, (number | string)[]>;
}

describe('safetensors files', () => {
  const index = goldenJson<Record<string, SafetensorsCase>>('goldens/formats/safetensors.json');
  // `_not_writable` lists data types that the library of that set could not write.
  const cases = Object.fromEntries(Object.entries(index).filter(([name]) => !name.startsWith('_')));

  for (const [name, golden] of Object.entries(cases)) {
    const file = goldenPath('goldens/formats/safetensors', name);

    it(`${name}: header, bytes and values`, async () => {
      const { tensors, metadata } = await openSafetensors(file);
      expect(new Map(metadata)).toEqual(new Map(Object.entries(golden.metadata ?? {})));
      expect(new Set(tensors.keys())).toEqual(new Set(Object.keys(golden.tensors)));
      for (const [key, { dtype, shape, nbytes, sha256 }] of Object.entries(golden.tensors)) {
        const tensor = tensors.get(key)!;
        const bytes = readBytes(tensor);
        expect([tensor.dtype, tensor.shape, bytes.length]).toEqual([dtype, shape, nbytes]);
        expect(createHash('sha256').update(bytes).digest('hex')).toBe(sha256);
        if (!isDecodable(tensor.dtype)) expect(() => readFloat32(tensor)).toThrow(FormatError);
      }
      const values = Object.entries(golden.values ?? golden.values_row_major ?? {});
      for (const [key, numbers] of values) {
        expect([...readFloat64(tensors.get(key)!)]).toEqual(numbers.map(Number));
      }
    });

    it(`${name}: the writer gives the library's own bytes back`, async () => {
      const { tensors, metadata } = await openSafetensors(file);
      const copy = path.join(scratch, path.basename(name));
      await writeSafetensors(copy, tensors.values(), metadata);
      const again = await openSafetensors(copy);
      expect(new Set(again.tensors.keys())).toEqual(new Set(tensors.keys()));
      for (const [key, tensor] of again.tensors) {
        expect(Buffer.from(readBytes(tensor))).toEqual(Buffer.from(readBytes(tensors.get(key)!)));
      }
      // Files with a note were made by hand and are laid out as no library would.
      if (golden.note === '' || !/header|offset|order/.test(golden.note)) {
        expect(readFileSync(copy).equals(readFileSync(file))).toBe(true);
      }
    });
  }

  it('number tables: every code and every rounding exact', async () => {
    const { tensors } = await openSafetensors(
      goldenPath('goldens/formats/safetensors/number_tables.safetensors'),
    );
    const numbers = (name: string) => readFloat32(tensors.get(name)!);
    const codes16 = readBytes(tensors.get('codes_u16')!);
    const codes8 = Uint8Array.from({ length: 256 }, (_, code) => code);
    const decoded: [string, Uint8Array, DType][] = [];
    for (const name of tensors.keys()) {
      const dtype = /e4m3/i.test(name) ? 'F8_E4M3' : /e5m2/i.test(name) ? 'F8_E5M2' : undefined;
      if (dtype !== undefined) decoded.push([name, codes8, dtype]);
      else if (/bf16|bfloat16/.test(name) && tensors.get(name)!.dtype === 'F32')
        decoded.push([name, codes16, 'BF16']);
      else if (/f16|float16/.test(name) && tensors.get(name)!.dtype === 'F32')
        decoded.push([name, codes16, 'F16']);
    }
    expect(decoded.map(([, , dtype]) => dtype).sort()).toEqual(['BF16', 'F16', 'F8_E4M3', 'F8_E5M2']);
    for (const [name, codes, dtype] of decoded) expect(decodeFloat32(codes, dtype)).toEqual(numbers(name));

    const input = numbers('f32_in');
    const rounded = [...tensors.keys()].filter((name) => name.startsWith('f32') && name !== 'f32_in');
    expect(rounded.length).toBe(2);
    for (const name of rounded) {
      const dtype = /bf/.test(name) ? 'BF16' : 'F16';
      expectSameBits(encodeFloat(input, dtype), tensors.get(name)!, input);
    }
  });

  it('opens shards through their index as one file', async () => {
    const index = goldenPath('goldens/formats/safetensors/sharded/model.safetensors.index.json');
    const { weight_map } = goldenJson<{ weight_map: Record<string, string> }>(
      'goldens/formats/safetensors/sharded/model.safetensors.index.json',
    );
    const { tensors, format } = await openTensorFile(index);
    expect(format).toBe('sharded');
    expect([...tensors.keys()]).toEqual(Object.keys(weight_map));
    for (const [name, shard] of Object.entries(weight_map)) {
      const { sha256 } = cases[`sharded/${shard}`]!.tensors[name]!;
      expect(
        createHash('sha256')
          .update(readBytes(tensors.get(name)!))
          .digest('hex'),
      ).toBe(sha256);
    }
  });
});

/** NaN has many codes; every other number has one. */
function expectSameBits(actual: Uint8Array, golden: RawTensor, input: Float32Array): void {
  const bits = new Uint16Array(actual.buffer, actual.byteOffset, input.length);
  const expected = new Uint16Array(readBytes(golden).slice().buffer);
  for (const [i, value] of input.entries()) {
    if (Number.isNaN(value)) expect(decodeFloat32(actual.slice(2 * i, 2 * i + 2), 'F16')[0]).toBeNaN();
    else expect([value, bits[i]]).toEqual([value, expected[i]]);
  }
}
