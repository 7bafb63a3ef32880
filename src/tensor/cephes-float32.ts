/**
 * Single-precision logarithm, sine and cosine, bit for bit as torch's CPU kernel computes them when it makes normal
 * numbers: the Cephes polynomials with fused multiply-adds. Only for that; `Math.log` is more accurate.
 * Source: S. Moshier, Cephes library, `logf` and `sinf`/`cosf`; order of operations found by comparing all bits of
 * torch's output (PyTorch 2.13, aten/src/ATen/native/cpu/avx_mathfun.h, built with AVX2 and FMA).
 */

const f32 = Math.fround;

/** a·b + c with one rounding: the product of two float32 numbers is exact in float64. */
function fused(a: number, b: number, c: number): number {
  return f32(a * b + c);
}

/** Horner's rule, highest power first, fused. */
function polynomial(x: number, coefficients: readonly number[]): number {
  return coefficients.reduce((sum, coefficient) => fused(sum, x, coefficient));
}

const LOG = [
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
  2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
].map(f32);
/** ln 2 in two parts, the small one first. */
const LN2_LOW = f32(-2.1219444e-4);
const LN2_HIGH = 0.693359375;
const SQRT_HALF = f32(Math.SQRT1_2);
const word = new DataView(new ArrayBuffer(4));

/** ln x of a positive, normal float32 number. */
export function logFloat32(x: number): number {
  word.setFloat32(0, x);
  const bits = word.getUint32(0);
  word.setUint32(0, (bits & 0x007fffff) | 0x3f000000);
  let mantissa = word.getFloat32(0);
  let exponent = (bits >>> 23) - 126;
  if (mantissa < SQRT_HALF) {
    exponent -= 1;
    mantissa *= 2;
  }
  const y = mantissa - 1;
  const square = f32(y * y);
  const cubic = f32(polynomial(y, LOG) * y);
  let tail = fused(cubic, square, f32(exponent * LN2_LOW));
  tail = fused(-0.5, square, tail);
  return fused(exponent, LN2_HIGH, f32(y + tail));
}

const SIN = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1].map(f32);
const COS = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2].map(f32);
const FOUR_OVER_PI = f32(4 / Math.PI);
/** −π/4 in three parts of falling size. */
const MINUS_QUARTER_PI = [-0.78515625, -2.4187564849853516e-4, -3.7748949774459e-8].map(f32);

/** [sin x, cos x] of a float32 angle, 0 ≤ x ≤ 2π. */
export function sinCosFloat32(x: number): readonly [number, number] {
  // Octants in pairs: the angle is brought to ±π/4 around a multiple of π/2.
  const octant = (Math.trunc(f32(x * FOUR_OVER_PI)) + 1) & ~1;
  const rest = MINUS_QUARTER_PI.reduce((sum, part) => fused(octant, part, sum), x);
  const square = f32(rest * rest);
  const quartic = f32(polynomial(square, COS) * square);
  const cosine = f32(fused(quartic, square, -f32(square * 0.5)) + 1);
  const sine = fused(f32(polynomial(square, SIN) * square), rest, rest);
  switch ((octant >> 1) & 3) {
    case 0:
      return [sine, cosine];
    case 1:
      return [cosine, -sine];
    case 2:
      return [-sine, -cosine];
    default:
      return [-cosine, sine];
  }
}
