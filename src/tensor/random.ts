/**
 * Seeded random numbers equal to those of torch's generator on a CPU, so that a seed means the same picture here and
 * there. Uniforms, integers, permutations and float32 normals are bit-identical (normals: to torch on x86 with AVX2).
 */

import { UsageError } from '../errors.ts';
import { floatToHalf, halfToFloat } from '../formats/dtype.ts';
import { inOneGo, type Steps } from '../pace.ts';
import { logFloat32, sinCosFloat32 } from './cephes-float32.ts';
import { Mt19937 } from './mt19937.ts';

const TWO_POW_32 = 2 ** 32;
/** Normals are made in blocks of 8 + 8 uniforms; shorter draws take another path. */
const BLOCK = 16;
/** Numbers between two steps of a long draw; a multiple of the block. */
const PIECE = 1 << 16;

function checkCount(where: string, count: number): void {
  if (!Number.isSafeInteger(count) || count < 0) {
    throw new UsageError(`${where}: expected a count of 0 or more, got ${count}`);
  }
}

/**
 * One stream of numbers. Draws continue the stream: `randn(3)` twice is not `randn(6)`.
 * Source: PyTorch 2.13, aten/src/ATen/core/DistributionsHelper.h, native/cpu/DistributionTemplates.h and
 * native/TensorFactories.cpp (`randperm_cpu`).
 */
export class TorchGenerator {
  readonly #bits: Mt19937;
  /** Second value of the last Box–Muller pair, kept by the scalar path across draws. */
  #spareNormal: number | null = null;

  /** @param seed what `manual_seed` takes. @throws {UsageError} unless it is an integer */
  constructor(seed: number | bigint) {
    if (typeof seed === 'number' && !Number.isSafeInteger(seed)) {
      throw new UsageError(`seed: expected an integer, got ${seed}`);
    }
    this.#bits = new Mt19937(seed);
  }

  #uint64(): bigint {
    const high = this.#bits.nextUint32();
    return (BigInt(high) << 32n) | BigInt(this.#bits.nextUint32());
  }

  /** 24 random bits in [0, 1): torch's float32 uniform. */
  #uniform24(): number {
    return (this.#bits.nextUint32() & 0xffffff) * 2 ** -24;
  }

  /** 53 random bits in [0, 1): torch's float64 uniform. */
  #uniform53(): number {
    const high = this.#bits.nextUint32() & 0x1fffff;
    return (high * TWO_POW_32 + this.#bits.nextUint32()) * 2 ** -53;
  }

  /** `torch.rand(count)`: float32 uniforms in [from, to), default [0, 1). */
  rand(count: number, from = 0, to = 1): Float32Array {
    checkCount('rand', count);
    const width = Math.fround(to - from);
    return Float32Array.from(
      { length: count },
      () => Math.fround(this.#uniform24() * width) + Math.fround(from),
    );
  }

  /** `torch.rand(count, dtype=float64)`. */
  randFloat64(count: number): Float64Array {
    checkCount('rand', count);
    return Float64Array.from({ length: count }, () => this.#uniform53());
  }

  /** `torch.randn(count)`: float32 standard normals. A shape is filled in row-major order, so only its size counts. */
  randn(count: number): Float32Array {
    checkCount('randn', count);
    return this.#normals(new Float32Array(count), () => this.#uniform24(), boxMullerFloat32);
  }

  /** `torch.randn(count, dtype=float64)`. */
  randnFloat64(count: number): Float64Array {
    return inOneGo(this.randnFloat64Steps(count));
  }

  /** `randnFloat64` in steps. Nothing else may be drawn before it is done. */
  *randnFloat64Steps(count: number): Steps<Float64Array> {
    checkCount('randn', count);
    return yield* this.#normalSteps(new Float64Array(count), () => this.#uniform53(), boxMuller);
  }

  /**
   * `torch.randn(count, dtype=float16)`, as half-precision pipelines draw their latents: computed in float32, then
   * rounded. Unlike float32, a count that is no multiple of 16 skips the uniforms of the tail that is drawn anew.
   */
  randnFloat16(count: number): Float32Array {
    checkCount('randn', count);
    const whole = count - (count % BLOCK);
    const values = this.#normals(new Float32Array(count), () => this.#uniform24(), boxMullerFloat32, whole);
    return values.map((value) => halfToFloat(floatToHalf(value)));
  }

  /** `torch.randint(low, high, (count,))`: integers in [low, high). @throws {UsageError} for an empty range */
  randint(low: number, high: number, count: number): number[] {
    checkCount('randint', count);
    const range = high - low;
    if (!Number.isSafeInteger(low) || !Number.isSafeInteger(high) || range < 1) {
      throw new UsageError(`randint: expected integers low < high, got [${low}, ${high})`);
    }
    return Array.from({ length: count }, () =>
      range >= TWO_POW_32
        ? Number(this.#uint64() % BigInt(range)) + low
        : (this.#bits.nextUint32() % range) + low,
    );
  }

  /** `torch.randperm(count)`: the integers 0 … count − 1 in random order. */
  randperm(count: number): number[] {
    checkCount('randperm', count);
    const order = Array.from({ length: count }, (_, i) => i);
    for (let i = 0; i < count - 1; i++) {
      const other = i + (this.#bits.nextUint32() % (count - i));
      [order[i], order[other]] = [order[other]!, order[i]!];
    }
    return order;
  }

  /** `torch.bernoulli` on `count` float32 probabilities: 1 with probability `probability`, else 0. */
  bernoulli(probability: number, count: number): Uint8Array {
    checkCount('bernoulli', count);
    const bound = Math.fround(probability);
    return Uint8Array.from({ length: count }, () => (this.#uniform24() < bound ? 1 : 0));
  }

  #normals<T extends Float32Array | Float64Array>(
    out: T,
    uniform: () => number,
    pair: Pair,
    prefilled?: number,
  ): T {
    return inOneGo(this.#normalSteps(out, uniform, pair, prefilled));
  }

  /** @param prefilled how many uniforms are drawn before the blocks are transformed */
  *#normalSteps<T extends Float32Array | Float64Array>(
    out: T,
    uniform: () => number,
    pair: Pair,
    prefilled = out.length,
  ): Steps<T> {
    if (out.length < BLOCK) {
      for (let i = 0; i < out.length; i++) out[i] = this.#scalarNormal();
      return out;
    }
    for (let begin = 0; begin < prefilled; begin += PIECE) {
      fill(out, begin, Math.min(prefilled, begin + PIECE), uniform);
      yield;
    }
    for (let begin = 0; begin < out.length; begin += PIECE) {
      const end = Math.min(out.length, begin + PIECE);
      for (let start = begin; start + BLOCK <= end; start += BLOCK) transformBlock(out, start, pair);
      yield;
    }
    if (out.length % BLOCK !== 0) {
      // The last 16, some of them done already, are drawn anew.
      const start = out.length - BLOCK;
      fill(out, start, out.length, uniform);
      transformBlock(out, start, pair);
    }
    return out;
  }

  /** Box–Muller in float64 whatever the dtype; every second value comes from the pair before. */
  #scalarNormal(): number {
    if (this.#spareNormal !== null) {
      const spare = this.#spareNormal;
      this.#spareNormal = null;
      return spare;
    }
    const theta = 2 * Math.PI * this.#uniform53();
    const radius = Math.sqrt(-2 * Math.log1p(-this.#uniform53()));
    this.#spareNormal = radius * Math.sin(theta);
    return radius * Math.cos(theta);
  }
}

function fill(out: Float32Array | Float64Array, begin: number, end: number, uniform: () => number): void {
  for (let i = begin; i < end; i++) out[i] = uniform();
}

/** Two uniforms in [0, 1) to two normals. */
type Pair = (u1: number, u2: number) => readonly [number, number];

function boxMuller(u1: number, u2: number): readonly [number, number] {
  const radius = Math.sqrt(-2 * Math.log(1 - u1));
  const theta = 2 * Math.PI * u2;
  return [radius * Math.cos(theta), radius * Math.sin(theta)];
}

const TWO_PI_FLOAT32 = Math.fround(2 * Math.PI);

function boxMullerFloat32(u1: number, u2: number): readonly [number, number] {
  const radius = Math.fround(Math.sqrt(Math.fround(-2 * logFloat32(1 - u1))));
  const [sine, cosine] = sinCosFloat32(Math.fround(TWO_PI_FLOAT32 * u2));
  return [radius * cosine, radius * sine];
}

/** Turn 8 + 8 uniforms at `start` into normals: radius from the first eight, angle from the second. */
function transformBlock(values: Float32Array | Float64Array, start: number, pair: Pair): void {
  for (let i = start; i < start + BLOCK / 2; i++) {
    [values[i], values[i + BLOCK / 2]] = pair(values[i]!, values[i + BLOCK / 2]!);
  }
}
