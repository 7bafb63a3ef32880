/**
 * Number types of weight files: names (as safetensors spells them), widths, and exact conversion to and
 * from float32. Bytes are little-endian everywhere; so is every machine that Node's supported builds run on.
 * F4 (two numbers a byte) and C64 are carried as bytes and have no float32 value here.
 */

const WIDTHS = {
  BOOL: 1,
  F4: 0.5,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  F8_E8M0: 1,
  F8_E4M3FNUZ: 1,
  F8_E5M2FNUZ: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  C64: 8,
  F64: 8,
  I64: 8,
  U64: 8,
} as const;

export type DType = keyof typeof WIDTHS;

/** Every dtype, in the order in which the safetensors library ranks them (it stores the last ones first). */
export const DTYPES = Object.keys(WIDTHS) as readonly DType[];

/** Bytes per element; one half for F4. */
export function dtypeWidth(dtype: DType): number {
  return WIDTHS[dtype];
}

/** Whether `name` is a dtype that this library reads. */
export function isDType(name: string): name is DType {
  return Object.hasOwn(WIDTHS, name);
}

/** Whether the dtype holds floating-point numbers (complex ones excluded). */
export function isFloatDType(dtype: DType): boolean {
  return dtype.startsWith('F') || dtype === 'BF16';
}

/** Whether `decodeFloat32` and `decodeFloat64` know the dtype: all but C64 and F4. */
export function isDecodable(dtype: DType): dtype is DecodableDType {
  return dtype !== 'C64' && dtype !== 'F4';
}

type DecodableDType = Exclude<DType, 'C64' | 'F4'>;

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** Bits of a float32 to the bits of the nearest IEEE half, ties to even; overflow gives infinity, NaN stays NaN. */
function halfBits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) {
    // Infinity, or a quiet NaN with the top bits of its payload.
    return sign | (magnitude > 0x7f800000 ? 0x7e00 | ((magnitude >>> 13) & 0x1ff) : 0x7c00);
  }
  // 65520 and above round to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const shifted = magnitude - 0x38000000;
    return sign | ((shifted + 0xfff + ((shifted >>> 13) & 1)) >>> 13);
  }
  // Subnormal half: the significand with its hidden bit, shifted down to units of 2^-24.
  const shift = 126 - (magnitude >>> 23);
  if (shift > 24) return sign;
  const significand = (magnitude & 0x7fffff) | 0x800000;
  const kept = significand >>> shift;
  const rest = significand & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0));
}

/** Bits of a float32 to the bits of the nearest bfloat16, ties to even; NaN stays NaN. */
function bfloat16Bits(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** A number to the bits of the nearest IEEE half (through float32), ties to even. */
export function floatToHalf(value: number): number {
  scratchFloat[0] = value;
  return halfBits(scratchBits[0]!);
}

/** The value of an IEEE half given by its 16 bits. */
export function halfToFloat(bits: number): number {
  return minifloat(bits, 10, 5, 15, 'ieee');
}

/** A number to the bits of the nearest bfloat16 (through float32), ties to even. */
export function floatToBfloat16(value: number): number {
  scratchFloat[0] = value;
  return bfloat16Bits(scratchBits[0]!);
}

/** The value of a bfloat16 given by its 16 bits. */
export function bfloat16ToFloat(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratchFloat[0]!;
}

/**
 * Value of a small float. `ieee` has infinities and NaNs in the top exponent; `fn` ("finite") has only the
 * all-ones code as NaN; `fnuz` has no negative zero and uses its code as the one NaN.
 */
function minifloat(
  code: number,
  mantissaBits: number,
  exponentBits: number,
  bias: number,
  specials: 'ieee' | 'fn' | 'fnuz',
): number {
  const top = (1 << exponentBits) - 1;
  const mantissa = code & ((1 << mantissaBits) - 1);
  const exponent = (code >>> mantissaBits) & top;
  const negative = code >>> (mantissaBits + exponentBits) === 1;
  const sign = negative ? -1 : 1;
  if (specials === 'fnuz' && negative && exponent === 0 && mantissa === 0) return Number.NaN;
  if (specials === 'ieee' && exponent === top) return mantissa === 0 ? sign * Infinity : Number.NaN;
  if (specials === 'fn' && exponent === top && mantissa === (1 << mantissaBits) - 1) return Number.NaN;
  const scale = 2 ** -mantissaBits;
  if (exponent === 0) return sign * mantissa * scale * 2 ** (1 - bias);
  return sign * (1 + mantissa * scale) * 2 ** (exponent - bias);
}

const TABLE_RULES = {
  F16: halfToFloat,
  F8_E4M3: (code: number) => minifloat(code, 3, 4, 7, 'fn'),
  F8_E5M2: (code: number) => minifloat(code, 2, 5, 15, 'ieee'),
  F8_E4M3FNUZ: (code: number) => minifloat(code, 3, 4, 8, 'fnuz'),
  F8_E5M2FNUZ: (code: number) => minifloat(code, 2, 5, 16, 'fnuz'),
  F8_E8M0: (code: number) => (code === 0xff ? Number.NaN : 2 ** (code - 127)),
} satisfies Partial<Record<DType, (code: number) => number>>;

type TableDType = keyof typeof TABLE_RULES;

const tables = new Map<TableDType, Float32Array>();

/** Value of every code of a small float type; built on first use, 256 KiB for F16. */
function decodeTable(dtype: TableDType): Float32Array {
  let table = tables.get(dtype);
  if (table === undefined) {
    table = Float32Array.from({ length: 256 ** WIDTHS[dtype] }, (_, code) => TABLE_RULES[dtype](code));
    tables.set(dtype, table);
  }
  return table;
}

/** The value of every float16 by its 16 bits. Do not write to it. */
export function float16Values(): Float32Array {
  return decodeTable('F16');
}

type NumberArray =
  | Float32Array
  | Float64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

/** The bytes as numbers of the given width, without a copy where they are aligned. */
function elements(bytes: Uint8Array, dtype: DecodableDType): NumberArray | BigInt64Array | BigUint64Array {
  const width = WIDTHS[dtype];
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const { buffer, byteOffset } = aligned;
  const length = Math.floor(aligned.byteLength / width);
  switch (dtype) {
    case 'F64':
      return new Float64Array(buffer, byteOffset, length);
    case 'F32':
      return new Float32Array(buffer, byteOffset, length);
    case 'I64':
      return new BigInt64Array(buffer, byteOffset, length);
    case 'U64':
      return new BigUint64Array(buffer, byteOffset, length);
    case 'I32':
      return new Int32Array(buffer, byteOffset, length);
    case 'U32':
      return new Uint32Array(buffer, byteOffset, length);
    case 'I16':
      return new Int16Array(buffer, byteOffset, length);
    case 'U16':
    case 'F16':
    case 'BF16':
      return new Uint16Array(buffer, byteOffset, length);
    case 'I8':
      return new Int8Array(buffer, byteOffset, length);
    default:
      return new Uint8Array(buffer, byteOffset, length);
  }
}

/**
 * Little-endian bytes as float32. Exact for F32, F16, BF16, F8, BOOL and integers up to 24 bits; wider numbers
 * are rounded to nearest. F32 that is aligned to 4 bytes is a view of `bytes`, not a copy.
 * @throws {RangeError} for C64 and F4
 */
export function decodeFloat32(bytes: Uint8Array, dtype: DType): Float32Array {
  if (!isDecodable(dtype)) throw new RangeError(`${dtype} has no float32 value`);
  const codes = elements(bytes, dtype);
  if (codes instanceof Float32Array) return codes;
  if (codes instanceof BigInt64Array || codes instanceof BigUint64Array) {
    return Float32Array.from(codes, Number);
  }
  if (dtype === 'BF16') {
    const out = new Float32Array(codes.length);
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < bits.length; i++) bits[i] = codes[i]! << 16;
    return out;
  }
  if (dtype in TABLE_RULES) {
    const table = decodeTable(dtype as TableDType);
    const out = new Float32Array(codes.length);
    for (let i = 0; i < out.length; i++) out[i] = table[codes[i]!]!;
    return out;
  }
  return new Float32Array(codes);
}

/**
 * Little-endian bytes as float64. Exact for every real dtype except 64-bit integers beyond 2^53, which are
 * rounded to nearest. Aligned F64 is a view of `bytes`, not a copy.
 * @throws {RangeError} for C64 and F4
 */
export function decodeFloat64(bytes: Uint8Array, dtype: DType): Float64Array {
  if (!isDecodable(dtype)) throw new RangeError(`${dtype} has no float64 value`);
  const codes = elements(bytes, dtype);
  if (codes instanceof Float64Array) return codes;
  if (codes instanceof BigInt64Array || codes instanceof BigUint64Array) {
    return Float64Array.from(codes, Number);
  }
  if (dtype === 'BF16') return new Float64Array(decodeFloat32(bytes, dtype));
  if (dtype in TABLE_RULES) {
    const table = decodeTable(dtype as TableDType);
    const out = new Float64Array(codes.length);
    for (let i = 0; i < out.length; i++) out[i] = table[codes[i]!]!;
    return out;
  }
  return new Float64Array(codes);
}

/** Per sign and exponent of a float32: what `halfBits` does with the significand, as numbers instead of branches. */
let halfTables: { base: Uint16Array; shift: Uint8Array; hidden: Uint32Array; bias: Uint32Array } | null =
  null;

function halfRules(): NonNullable<typeof halfTables> {
  if (halfTables !== null) return halfTables;
  const tables = {
    base: new Uint16Array(512),
    shift: new Uint8Array(512),
    hidden: new Uint32Array(512),
    bias: new Uint32Array(512),
  };
  for (let index = 0; index < 512; index++) {
    const exponent = index & 0xff;
    const sign = (index & 0x100) << 7;
    // Zero and too small, subnormal half, normal half, infinity: one shift each; 31 leaves nothing of the significand.
    const subnormal = 126 - exponent;
    const [base, shift, hidden] =
      exponent >= 143
        ? [0x7c00, 31, 0]
        : exponent >= 113
          ? [(exponent - 112) << 10, 13, 0]
          : subnormal <= 24
            ? [0, subnormal, 0x800000]
            : [0, 31, 0];
    tables.base[index] = sign | base;
    tables.shift[index] = shift;
    tables.hidden[index] = hidden;
    tables.bias[index] = shift === 31 ? 0 : (1 << (shift - 1)) - 1;
  }
  halfTables = tables;
  return tables;
}

/** `halfBits` of many numbers. */
function encodeHalves(bits: Uint32Array, out: Uint16Array): void {
  const { base, shift, hidden, bias } = halfRules();
  for (let i = 0; i < out.length; i++) {
    const x = bits[i]!;
    const index = x >>> 23;
    const significand = (x & 0x7fffff) | hidden[index]!;
    const by = shift[index]!;
    // A carry out of the significand raises the exponent, up to infinity, as it should.
    out[i] = base[index]! + ((significand + bias[index]! + ((significand >>> by) & 1)) >>> by);
    if ((x & 0x7fffffff) > 0x7f800000) out[i] = halfBits(x);
  }
}

/** The dtypes that `encodeFloat` writes. */
export type WritableFloat = 'F64' | 'F32' | 'F16' | 'BF16';

/** Numbers of a LoRA as its field names them, and as a weight file's header does. */
export const FACTOR_DTYPES = { fp32: 'F32', fp16: 'F16', bf16: 'BF16' } as const satisfies Record<
  string,
  WritableFloat
>;
export const factorDTypeNames = Object.keys(FACTOR_DTYPES) as readonly (keyof typeof FACTOR_DTYPES)[];

/**
 * Numbers to little-endian bytes, rounded to nearest, ties to even. F16 values beyond ±65504 become infinite:
 * whoever narrows weights checks their range. F32 is a view of `values`, not a copy.
 */
export function encodeFloat(values: Float32Array, dtype: WritableFloat): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (dtype === 'F64') return new Uint8Array(new Float64Array(values).buffer);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  if (dtype === 'F16') encodeHalves(bits, out);
  else for (let i = 0; i < out.length; i++) out[i] = bfloat16Bits(bits[i]!);
  return new Uint8Array(out.buffer);
}
