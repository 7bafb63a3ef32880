/**
 * Writing torch zip files that `torch.load(weights_only=True)` opens: a pickle of protocol 2 and the tensors'
 * bytes in stored entries, aligned to 64 bytes as PyTorch does. Every tensor gets a contiguous storage of its own.
 */
import { FormatError, ShapeError, UsageError } from '../errors.ts';
import { joinBytes, latin1Bytes, latin1Text, utf8Bytes } from '../io/bytes.ts';
import { crc32 } from '../io/platform/deflate.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { Pace } from '../pace.ts';
import { ByteReader } from './byte-reader.ts';
import { dtypeWidth, isFloatDType } from './dtype.ts';
import { unpickleSteps } from './pickle.ts';
import { elementCount, type RawTensor, readBytes, rowMajorStrides } from './raw-tensor.ts';
import { STORAGE_CLASSES, TORCH_DTYPE_NAMES } from './torch-dtypes.ts';
import { torchHost } from './torch-host.ts';
import { flattenTensors } from './torch-names.ts';
import { isTagged, plainTree, type TorchTensor, type TorchTuple, type TorchValue } from './torch-value.ts';
import { MAX_PICKLE_BYTES } from './torch-zip.ts';
import { MAX_ENTRIES } from './zip-archive.ts';

const ALIGNMENT = 64;
const TOP = 'archive';
/** Sizes and offsets are written in 32 bits. */
const MAX_FILE_BYTES = 0xffffffff;
const MAX_DEPTH = 256;

/**
 * Write a torch zip file. Integers become Python ints, other numbers floats; Maps become dicts.
 * @param file  path; its folder must exist, an existing file is replaced once the new one is complete
 * @param value e.g. `new Map([['params', new Map(…)]])`, tensors as made by `torchTensor`
 * @param pace  between the tensors; where it ends, nothing is left behind
 * @throws {UsageError} for what the format cannot hold (over 4 GiB, F4 tensors, references, cycles) and for what
 *   could not be read again (two tensors of one name, keys that Python calls equal, more than the reader's limits)
 * @throws {ShapeError} if a tensor's bytes are not as many as its shape says; nothing is left behind
 */
export async function writeTorchZip(file: string, value: TorchValue, pace: Pace = new Pace()): Promise<void> {
  const writer = new PickleWriter(file);
  writer.value(value, 0);
  const pickle = writer.finish();
  await pace.turn();
  await checkReadable(file, value, pickle, writer.tensors, pace);
  await writeFileAtomically(file, pace.over(zipChunks(file, pickle, writer.tensors)));
}

/** A tensor as a value of a torch file. */
export function torchTensor(tensor: RawTensor): TorchTensor {
  return { kind: 'tensor', tensor, parameter: false, requiresGrad: false };
}

/** Entries beside the tensors': data.pkl, byteorder, version. */
const OTHER_ENTRIES = 3;

/** Read the pickle by the reader's own rules, before any tensor's bytes are asked for. */
async function checkReadable(
  file: string,
  value: TorchValue,
  pickle: Uint8Array,
  tensors: readonly RawTensor[],
  pace: Pace,
): Promise<void> {
  const refused = (message: string) =>
    new UsageError(`${file}: cannot be written, since it could not be read: ${message}`);
  const bytes = pickle.length + tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0);
  if (bytes > MAX_FILE_BYTES) throw tooLarge(file);
  if (pickle.length > MAX_PICKLE_BYTES || tensors.length + OTHER_ENTRIES > MAX_ENTRIES) {
    throw refused(
      `expected at most ${MAX_ENTRIES - OTHER_ENTRIES} tensors and ${MAX_PICKLE_BYTES} bytes to describe them, got ${tensors.length} and ${pickle.length}; use safetensors`,
    );
  }
  const host = torchHost(({ key, sizeBytes }, fail) => {
    const tensor = tensors[Number(key)];
    if (tensor === undefined || bytesOf(tensor) !== sizeBytes) throw fail(`storage ${key} of another size`);
    return { ...tensor.storage, sizeBytes };
  });
  let read: TorchValue;
  try {
    const reader = ByteReader.ofBytes('data.pkl', 'pickle', pickle);
    read = plainTree('data.pkl', await pace.run(unpickleSteps(reader, host)), bytes);
    flattenTensors('data.pkl', read, bytes);
  } catch (error) {
    if (error instanceof FormatError) throw refused(error.message);
    throw error;
  }
  if (!sameContainers(value, read))
    throw refused('a dict has two keys that are one in Python, such as 1 and True');
}

/** Whether every dict still has all its entries. */
function sameContainers(written: TorchValue, read: TorchValue): boolean {
  if (written instanceof Map) {
    if (!(read instanceof Map) || written.size !== read.size) return false;
    const values = [...read.values()];
    return [...written.values()].every((item, i) => sameContainers(item, values[i]!));
  }
  const items = Array.isArray(written) ? written : isTuple(written) ? written.items : [];
  const others = Array.isArray(read) ? read : isTuple(read) ? read.items : [];
  return items.every((item, i) => sameContainers(item, others[i]!));
}

function isTuple(value: TorchValue): value is TorchTuple {
  return isTagged(value) && value.kind === 'tuple';
}

class PickleWriter {
  /** In the order of their keys `0`, `1`, … */
  readonly tensors: RawTensor[] = [];
  readonly #file: string;
  readonly #parts: Uint8Array[] = [Uint8Array.of(0x80, 2)];

  constructor(file: string) {
    this.#file = file;
  }

  finish(): Uint8Array {
    this.#code('.');
    return joinBytes(this.#parts);
  }

  #code(opcode: string): void {
    this.#parts.push(latin1Bytes(opcode));
  }

  #global(module: string, name: string): void {
    this.#code(`c${module}\n${name}\n`);
  }

  #string(text: string): void {
    if (/\p{Surrogate}/u.test(text)) {
      throw new UsageError(`${this.#file}: expected well-formed Unicode, got ${JSON.stringify(text)}`);
    }
    const bytes = utf8Bytes(text);
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, bytes.length, true);
    this.#code('X');
    this.#parts.push(length, bytes);
  }

  #integer(value: number | bigint): void {
    if (value >= -0x80000000 && value <= 0x7fffffff) {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setInt32(0, Number(value), true);
      this.#code('J');
      this.#parts.push(bytes);
      return;
    }
    // LONG1: two's complement, the shortest that keeps the sign.
    let rest = BigInt(value);
    const bytes: number[] = [];
    do {
      bytes.push(Number(rest & 0xffn));
      rest >>= 8n;
    } while (!((rest === 0n && bytes.at(-1)! < 0x80) || (rest === -1n && bytes.at(-1)! >= 0x80)));
    if (bytes.length > 0xff)
      throw new UsageError(`${this.#file}: expected integers below 2^2039, got a larger one`);
    this.#parts.push(Uint8Array.of(0x8a, bytes.length, ...bytes));
  }

  #float(value: number): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setFloat64(0, value, false);
    this.#code('G');
    this.#parts.push(bytes);
  }

  #tuple(items: readonly TorchValue[], depth: number): void {
    this.#code('(');
    for (const item of items) this.value(item, depth + 1);
    this.#code('t');
  }

  value(value: TorchValue, depth: number): void {
    if (depth > MAX_DEPTH) {
      throw new UsageError(
        `${this.#file}: expected containers nested at most ${MAX_DEPTH} deep, got more, or a cycle`,
      );
    }
    if (value === null) this.#code('N');
    else if (typeof value === 'boolean') this.#code(value ? '\x88' : '\x89');
    else if (typeof value === 'string') this.#string(value);
    else if (typeof value === 'bigint') this.#integer(value);
    else if (typeof value === 'number') {
      if (Number.isSafeInteger(value) && !Object.is(value, -0)) this.#integer(value);
      else this.#float(value);
    } else if (value instanceof Uint8Array) {
      this.#global('_codecs', 'encode');
      this.#tuple([latin1Text(value), 'latin1'], depth);
      this.#code('R');
    } else if (Array.isArray(value)) {
      this.#code('](');
      for (const item of value) this.value(item, depth + 1);
      this.#code('e');
    } else if (value instanceof Map) {
      this.#code('}(');
      for (const [key, item] of value) {
        this.value(key, depth + 1);
        this.value(item, depth + 1);
      }
      this.#code('u');
    } else if (isTagged(value)) this.#tagged(value, depth);
  }

  #tagged(value: Extract<TorchValue, { kind: string }>, depth: number): void {
    switch (value.kind) {
      case 'tuple':
        this.#tuple(value.items, depth);
        break;
      case 'set':
        this.#global('__builtin__', 'set');
        this.#tuple([[...value.items]], depth);
        this.#code('R');
        break;
      case 'size':
        this.#global('torch', 'Size');
        this.#tuple([{ kind: 'tuple', items: value.sizes }], depth);
        this.#code('R');
        break;
      case 'dtype':
        this.#global('torch', value.name.replace(/^torch\./, ''));
        break;
      case 'tensor':
        this.#tensor(value);
        break;
      case 'reference':
        throw new UsageError(`${this.#file}: expected plain data, got the class name "${value.name}"`);
    }
  }

  #tensor({ tensor, parameter, requiresGrad }: TorchTensor): void {
    const { dtype, shape } = tensor;
    const key = String(this.tensors.length);
    const count = elementCount(shape);
    const storageClass = STORAGE_CLASSES.get(dtype);
    const dtypeName = TORCH_DTYPE_NAMES.get(dtype);
    if (dtypeName === undefined) {
      throw new UsageError(`${this.#file}: tensor "${tensor.name}": PyTorch has no dtype for ${dtype}`);
    }
    if (Number.isNaN(count)) {
      throw new UsageError(
        `${this.#file}: tensor "${tensor.name}": expected sizes as whole numbers ≥ 0, got [${shape.join(', ')}]`,
      );
    }
    this.tensors.push(tensor);
    if (parameter) {
      this.#global('torch._utils', '_rebuild_parameter');
      this.#code('(');
    }
    // Newer dtypes have no storage class of their own and name the dtype beside an untyped storage.
    this.#global('torch._utils', storageClass === undefined ? '_rebuild_tensor_v3' : '_rebuild_tensor_v2');
    this.#code('((');
    this.#string('storage');
    if (storageClass === undefined) this.#global('torch.storage', 'UntypedStorage');
    else this.#global('torch', storageClass);
    this.#string(key);
    this.#string('cpu');
    this.#integer(storageClass === undefined ? count * dtypeWidth(dtype) : count);
    this.#code('tQ');
    this.#integer(0);
    this.#tuple(shape, 0);
    this.#tuple(rowMajorStrides(shape), 0);
    this.#code(requiresGrad && isFloatDType(dtype) ? '\x88' : '\x89');
    this.#global('collections', 'OrderedDict');
    this.#code(')R');
    if (storageClass === undefined) this.#global('torch', dtypeName);
    this.#code('tR');
    if (parameter) {
      this.#code(requiresGrad ? '\x88' : '\x89');
      this.#global('collections', 'OrderedDict');
      this.#code(')RtR');
    }
  }
}

function wholeBytes(tensor: RawTensor): Uint8Array {
  const bytes = readBytes(tensor);
  const expected = bytesOf(tensor);
  if (bytes.length === expected) return bytes;
  throw new ShapeError(
    `tensor "${tensor.name}": expected ${expected} bytes for [${tensor.shape.join(', ')}], got ${bytes.length}`,
  );
}

function bytesOf({ shape, dtype }: RawTensor): number {
  return elementCount(shape) * dtypeWidth(dtype);
}

function tooLarge(file: string): UsageError {
  return new UsageError(`${file}: a torch zip of over 4 GiB is not written; use safetensors`);
}

interface WrittenEntry {
  readonly name: Uint8Array;
  readonly offset: number;
  readonly size: number;
  readonly crc: number;
}

/** The zip file piece by piece; one tensor is in memory at a time. */
function* zipChunks(file: string, pickle: Uint8Array, tensors: readonly RawTensor[]): Generator<Uint8Array> {
  const written: WrittenEntry[] = [];
  let offset = 0;
  const grow = (bytes: number) => {
    offset += bytes;
    if (offset > MAX_FILE_BYTES) throw tooLarge(file);
  };
  const contents = function* (): Generator<[string, Uint8Array]> {
    yield ['data.pkl', pickle];
    yield ['byteorder', utf8Bytes('little')];
    for (const [index, tensor] of tensors.entries()) yield [`data/${index}`, wholeBytes(tensor)];
    yield ['version', utf8Bytes('3\n')];
  };
  for (const [path, bytes] of contents()) {
    const entry: WrittenEntry = {
      name: utf8Bytes(`${TOP}/${path}`),
      offset,
      size: bytes.length,
      crc: crc32(bytes),
    };
    const header = localHeader(entry);
    grow(header.length + bytes.length);
    written.push(entry);
    yield header;
    yield bytes;
  }
  const directoryStart = offset;
  for (const entry of written) {
    const record = directoryRecord(entry);
    grow(record.length);
    yield record;
  }
  yield endRecord(written.length, directoryStart, offset - directoryStart);
}

/** Names in UTF-8. */
const FLAGS = 0x800;
const VERSION = 20;
/** 1 January 1980, the earliest that zip can say: equal content gives equal files. */
const DATE = 0x21;

/** Header with a filler field ("FB") that puts the data at a multiple of 64. */
function localHeader({ name, offset, size, crc }: WrittenEntry): Uint8Array {
  const bare = 30 + name.length + 4;
  const filler = (ALIGNMENT - ((offset + bare) % ALIGNMENT)) % ALIGNMENT;
  const header = new Uint8Array(bare + filler);
  const fields = new DataView(header.buffer);
  fields.setUint32(0, 0x04034b50, true);
  fields.setUint16(4, VERSION, true);
  fields.setUint16(6, FLAGS, true);
  fields.setUint16(12, DATE, true);
  fields.setUint32(14, crc, true);
  fields.setUint32(18, size, true);
  fields.setUint32(22, size, true);
  fields.setUint16(26, name.length, true);
  fields.setUint16(28, 4 + filler, true);
  header.set(name, 30);
  header.set(latin1Bytes('FB'), 30 + name.length);
  fields.setUint16(32 + name.length, filler, true);
  header.set(latin1Bytes('Z'.repeat(filler)), bare);
  return header;
}

function directoryRecord({ name, offset, size, crc }: WrittenEntry): Uint8Array {
  const record = new Uint8Array(46 + name.length);
  const fields = new DataView(record.buffer);
  fields.setUint32(0, 0x02014b50, true);
  fields.setUint16(4, VERSION, true);
  fields.setUint16(6, VERSION, true);
  fields.setUint16(8, FLAGS, true);
  fields.setUint16(14, DATE, true);
  fields.setUint32(16, crc, true);
  fields.setUint32(20, size, true);
  fields.setUint32(24, size, true);
  fields.setUint16(28, name.length, true);
  fields.setUint32(42, offset, true);
  record.set(name, 46);
  return record;
}

function endRecord(entries: number, directoryStart: number, directoryBytes: number): Uint8Array {
  const record = new Uint8Array(22);
  const fields = new DataView(record.buffer);
  fields.setUint32(0, 0x06054b50, true);
  fields.setUint16(8, entries, true);
  fields.setUint16(10, entries, true);
  fields.setUint32(12, directoryBytes, true);
  fields.setUint32(16, directoryStart, true);
  return record;
}
