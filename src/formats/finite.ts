/** Whether numbers are finite, told by their bits: as fast as the bytes are read. */
import { type DType, decodeFloat64, isDecodable, isFloatDType } from './dtype.ts';

/** Per dtype: the bits of the exponent. All of them set means infinity, or no number at all. */
const EXPONENT: Partial<Record<DType, number>> = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 };

/** Whether every number of these bytes is finite. @param bytes whole numbers, aligned to their width */
export function areFinite(bytes: Uint8Array, dtype: DType): boolean {
  const mask = EXPONENT[dtype];
  if (mask === undefined) {
    return !isFloatDType(dtype) || !isDecodable(dtype) || decodeFloat64(bytes, dtype).every(Number.isFinite);
  }
  const wide = dtype === 'F32';
  const { buffer, byteOffset, byteLength } = bytes;
  let clean = 0;
  if (byteOffset % 4 === 0) {
    // Two halves at a time: adding its lowest bit to a full exponent carries into the sign, which is masked out before.
    const words = new Int32Array(buffer, byteOffset, Math.floor(byteLength / 4));
    const both = wide ? mask : (mask << 16) | mask;
    const lowest = wide ? 0x800000 : ((mask & -mask) << 16) | (mask & -mask);
    let carried = 0;
    // Four sums that do not wait for each other.
    let [a, b, c] = [0, 0, 0];
    let i = 0;
    for (; i + 3 < words.length; i += 4) {
      carried |= ((words[i]! & both) + lowest) | 0;
      a |= ((words[i + 1]! & both) + lowest) | 0;
      b |= ((words[i + 2]! & both) + lowest) | 0;
      c |= ((words[i + 3]! & both) + lowest) | 0;
    }
    for (; i < words.length; i++) carried |= ((words[i]! & both) + lowest) | 0;
    carried |= a | b | c;
    if ((carried & (wide ? 0x80000000 : 0x80008000)) === 0) clean = words.length * (wide ? 1 : 2);
  }
  const codes = wide
    ? new Uint32Array(buffer, byteOffset, byteLength / 4)
    : new Uint16Array(buffer, byteOffset, byteLength / 2);
  for (let i = clean; i < codes.length; i++) if ((codes[i]! & mask) === mask) return false;
  return true;
}
