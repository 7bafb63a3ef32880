/**
 * Safetensors: names, shapes, numbers and metadata changed so that the file stays consistent, which is what gets past
 * the first reader; or the header alone, with a true length.
 */
import { DTYPES, type DType, dtypeWidth } from '../../../src/formats/dtype.ts';
import type { Random } from '../random.ts';
import { mutateBytes } from './bytes.ts';
import { mutateJson } from './json.ts';
import { mutateText } from './text.ts';

const WIDEST_FIRST: readonly string[] = DTYPES.toReversed();

/** Bytes of a tensor; a tool of this kind takes any shape. */
const sizeOf = (shape: readonly number[], dtype: DType): number =>
  Math.ceil(count(shape) * dtypeWidth(dtype));

/** A tensor as the file has it. */
export interface PlainTensor {
  name: string;
  dtype: DType;
  shape: number[];
  data: Buffer;
}

export interface PlainSafetensors {
  tensors: PlainTensor[];
  metadata: [key: string, value: string][];
}

/** Contents of a file without faults. */
export function readPlain(bytes: Uint8Array): PlainSafetensors {
  const buffer = Buffer.from(bytes);
  const length = Number(buffer.readBigUInt64LE(0));
  const header = JSON.parse(buffer.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: DType; shape: number[]; data_offsets: [number, number] }
  >;
  const { __metadata__: metadata = {}, ...entries } = header;
  return {
    metadata: Object.entries(metadata as unknown as Record<string, string>),
    tensors: Object.entries(entries).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => ({
        name,
        dtype,
        shape,
        data: buffer.subarray(8 + length + begin, 8 + length + end),
      }),
    ),
  };
}

/** The file: widest dtype first, then in the order given. */
export function writePlain({ tensors, metadata }: PlainSafetensors): Buffer {
  const sorted = tensors.toSorted((a, b) => WIDEST_FIRST.indexOf(a.dtype) - WIDEST_FIRST.indexOf(b.dtype));
  const members: string[] = [];
  if (metadata.length > 0) {
    const pairs = metadata.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
    members.push(`"__metadata__":{${pairs.join(',')}}`);
  }
  let at = 0;
  for (const { name, dtype, shape, data } of sorted) {
    members.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${at},${at + data.length}]}`,
    );
    at += data.length;
  }
  return withLength(`{${members.join(',')}}`, ...sorted.map(({ data }) => data));
}

function withLength(header: string, ...rest: readonly Uint8Array[]): Buffer {
  const text = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length + ((8 - (text.length % 8)) % 8)));
  return Buffer.concat([length, text, Buffer.alloc((8 - (text.length % 8)) % 8, 0x20), ...rest]);
}

const NAMES = [
  '',
  '.',
  '__proto__',
  'constructor',
  'a.b.c',
  '../x',
  '\u0000',
  '\u001b[2J',
  '\u202ex',
  'é',
  '😀',
  ' ',
  'weight',
  'alpha',
];

const count = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Numbers that are none, or too large for what they are multiplied with. */
function fill(random: Random, { dtype, data }: PlainTensor): Buffer {
  const width = Math.ceil(dtypeWidth(dtype));
  const patterns: readonly (readonly number[])[] =
    dtype === 'F32'
      ? [
          [0, 0, 0xc0, 0x7f],
          [0, 0, 0x80, 0x7f],
          [0xff, 0xff, 0x7f, 0x7f],
          [1, 0, 0, 0],
          [0, 0, 0, 0],
          [0, 0, 0x80, 0x3f],
        ]
      : [
          Array.from({ length: width }, () => 0xff),
          Array.from({ length: width }, () => 0),
          [0, 0x7c],
          [0, 0x7e],
          [0x7f],
        ];
  const pattern = Buffer.from(random.pick(patterns));
  const result = Buffer.from(data);
  if (random.chance(0.5)) return result.fill(pattern);
  const at = random.below(Math.max(1, Math.floor(data.length / width))) * width;
  return result.fill(pattern, at, Math.min(data.length, at + width));
}

function reshape(random: Random, tensor: PlainTensor): void {
  const { shape } = tensor;
  const axis = random.below(Math.max(1, shape.length));
  switch (random.below(9)) {
    case 0:
      shape.reverse();
      return;
    case 1:
      shape.splice(axis, 0, 1);
      return;
    case 2:
      if (shape.length > 1) shape.splice(0, 2, shape[0]! * shape[1]!);
      return;
    case 3:
      shape.push(1, 1);
      return;
    case 4:
      // Nothing at all, times very much.
      tensor.shape = random.pick([[0], [], [0, 2 ** 40], [2 ** 31, 0], [0, 0, 0], [1], [1, 1], [2, 2, 3, 3]]);
      break;
    case 8: {
      // Long and thin: small as a file, large once multiplied.
      const long = random.pick([200, 3000, 30_000]);
      tensor.shape = random.pick([
        [long, 1],
        [1, long],
        [90, 90],
        [long, 1, 1, 1],
      ]);
      break;
    }
    case 5:
      shape[axis] = random.pick([0, 1, 2, 3, 5, 16, 64, 77]);
      break;
    case 6:
      shape[axis] = (shape[axis] ?? 1) * random.pick([2, 3, 16, 100]);
      break;
    default:
      shape[axis] = Math.max(0, (shape[axis] ?? 1) + random.pick([-1, 1]));
  }
  const size = sizeOf(tensor.shape, tensor.dtype);
  if (size > 1 << 17) {
    tensor.shape = [1];
    tensor.data = Buffer.alloc(sizeOf([1], tensor.dtype));
    return;
  }
  const data = Buffer.alloc(size);
  if (tensor.data.length > 0)
    for (let at = 0; at < size; at += tensor.data.length) tensor.data.copy(data, at);
  tensor.data = data;
}

/** A name, otherwise: another one's, one with parts exchanged, or one that nobody expects. */
function renamed(random: Random, own: string, all: readonly string[], words: readonly string[]): string {
  const dots = own.split(/([._:])/);
  const others = random.pick(all).split(/([._:])/);
  switch (random.below(8)) {
    case 0:
      return random.pick(all);
    case 1:
      return words.length > 0 ? random.pick(words) : own;
    case 2:
      return random.pick(NAMES);
    case 3:
      return mutateText(random, own, words);
    case 4:
      return [...dots.slice(0, -1), others.at(-1)!].join('');
    case 5:
      return [others[0]!, ...dots.slice(1)].join('');
    case 6:
      return own.replace(/\d+/, () => String(random.pick([0, 1, 2, 3, 9, 12, 99, 1e6, 2 ** 53])));
    default: {
      const at = random.below(dots.length);
      dots.splice(at, random.below(3), ...others.slice(random.below(others.length)).slice(0, 3));
      return dots.join('');
    }
  }
}

function changeMetadata(random: Random, metadata: [string, string][], words: readonly string[]): void {
  const entry = metadata[random.below(metadata.length)];
  if (entry === undefined || random.chance(0.15)) {
    const key = words.length > 0 && random.chance(0.6) ? random.pick(words) : random.pick(NAMES);
    metadata.push([key, entry?.[1] ?? random.pick(['', '{}', '[]', 'null', 'x', '<embed>'])]);
    return;
  }
  if (random.chance(0.05)) {
    metadata.splice(metadata.indexOf(entry), 1);
    return;
  }
  if (random.chance(0.05)) {
    entry[0] = random.pick(NAMES);
    return;
  }
  if (/^[[{]/.test(entry[1]) && random.chance(0.9)) {
    try {
      entry[1] = mutateJson(random, entry[1], words);
      return;
    } catch (error) {
      // A JSON text that an earlier step has spoiled is text.
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
  entry[1] = mutateText(random, entry[1], words);
}

function step(
  random: Random,
  file: PlainSafetensors,
  other: Uint8Array | null,
  words: readonly string[],
): void {
  const { tensors, metadata } = file;
  const tensor = tensors[random.below(tensors.length)];
  const names = tensors.map(({ name }) => name);
  if (tensor === undefined || (metadata.length > 0 && random.chance(0.3))) {
    changeMetadata(random, metadata, words);
    return;
  }
  switch (random.below(11)) {
    case 0:
      tensors.splice(tensors.indexOf(tensor), 1);
      return;
    case 1:
      tensors.push({ ...tensor, shape: [...tensor.shape], name: renamed(random, tensor.name, names, words) });
      return;
    case 2:
    case 3:
      tensor.name = renamed(random, tensor.name, names, words);
      return;
    case 4:
    case 5:
    case 6:
      reshape(random, tensor);
      return;
    case 7: {
      tensor.dtype = random.pick(DTYPES);
      tensor.data = Buffer.alloc(
        sizeOf(tensor.shape, tensor.dtype),
        tensor.data.length > 0 ? tensor.data : 0,
      );
      return;
    }
    case 8:
      tensor.data = fill(random, tensor);
      return;
    case 9:
      if (other !== null) {
        const foreign = readPlain(other);
        if (foreign.tensors.length > 0) tensors.push({ ...random.pick(foreign.tensors) });
        if (foreign.metadata.length > 0 && random.chance(0.3)) metadata.push(random.pick(foreign.metadata));
      }
      return;
    default: {
      const partner = random.pick(tensors);
      [tensor.name, partner.name] = [partner.name, tensor.name];
    }
  }
}

/**
 * A changed file.
 * @param other a second file of the same kind
 * @param words names and metadata keys of this kind of file
 */
export function mutateSafetensors(
  random: Random,
  bytes: Uint8Array,
  other: Uint8Array | null,
  words: readonly string[],
): Buffer {
  if (random.chance(0.2)) {
    const length = Number(Buffer.from(bytes).readBigUInt64LE(0));
    const header = Buffer.from(bytes).toString('utf8', 8, 8 + length);
    const changed = random.chance(0.7)
      ? mutateJson(random, header, words)
      : mutateText(random, header, words);
    const data = Buffer.from(bytes).subarray(8 + length);
    return withLength(changed, random.chance(0.1) ? mutateBytes(random, data) : data);
  }
  const file = readPlain(bytes);
  for (let i = random.few(4); i > 0; i--) step(random, file, other, words);
  // Names and shapes that are no Unicode or no numbers stay as JSON writes them.
  return writePlain(file);
}
