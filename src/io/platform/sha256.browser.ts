/** SHA-256 in plain numbers (FIPS 180-4). The same names as in `sha256.ts`. */
import { utf8Bytes } from '../bytes.ts';
import { readFileSync } from './disk.browser.ts';
import { nextTurn } from './machine.browser.ts';

const BLOCK = 64;

/** The first 32 bits of the broken parts of the primes' roots: cubic ones for the rounds, square ones to begin with. */
const ROUNDS = new Int32Array(64);
const START = new Int32Array(8);
for (let n = 2, found = 0; found < 64; n++) {
  let prime = true;
  for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
  if (!prime) continue;
  ROUNDS[found] = ((Math.cbrt(n) % 1) * 2 ** 32) | 0;
  if (found < 8) START[found] = ((Math.sqrt(n) % 1) * 2 ** 32) | 0;
  found++;
}

class PlainSha256 {
  readonly #state = START.slice();
  readonly #schedule = new Int32Array(64);
  readonly #rest = new Uint8Array(BLOCK);
  #used = 0;
  #total = 0;

  update(part: Uint8Array | string): this {
    const bytes = typeof part === 'string' ? utf8Bytes(part) : part;
    this.#total += bytes.length;
    let at = 0;
    if (this.#used > 0) {
      at = Math.min(BLOCK - this.#used, bytes.length);
      this.#rest.set(bytes.subarray(0, at), this.#used);
      this.#used += at;
      if (this.#used < BLOCK) return this;
      this.#block(this.#rest, 0);
    }
    for (; at + BLOCK <= bytes.length; at += BLOCK) this.#block(bytes, at);
    this.#rest.set(bytes.subarray(at));
    this.#used = bytes.length - at;
    return this;
  }

  digest(_encoding: 'hex'): string {
    const bits = new Uint8Array(8);
    new DataView(bits.buffer).setBigUint64(0, BigInt(this.#total) * 8n);
    const zeros = (2 * BLOCK - 9 - this.#used) % BLOCK;
    this.update(Uint8Array.of(0x80)).update(new Uint8Array(zeros)).update(bits);
    return [...this.#state].map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
  }

  #block(bytes: Uint8Array, at: number): void {
    const w = this.#schedule;
    for (let i = 0; i < 16; i++) {
      const from = at + 4 * i;
      w[i] = (bytes[from]! << 24) | (bytes[from + 1]! << 16) | (bytes[from + 2]! << 8) | bytes[from + 3]!;
    }
    for (let i = 16; i < 64; i++) {
      const [x, y] = [w[i - 15]!, w[i - 2]!];
      const small = turned(x, 7) ^ turned(x, 18) ^ (x >>> 3);
      const large = turned(y, 17) ^ turned(y, 19) ^ (y >>> 10);
      w[i] = (w[i - 16]! + small + w[i - 7]! + large) | 0;
    }
    const state = this.#state;
    let [a, b, c, d, e, f, g, h] = state as unknown as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    for (let i = 0; i < 64; i++) {
      const one =
        (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + ROUNDS[i]! + w[i]!) | 0;
      const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + one) | 0;
      d = c;
      c = b;
      b = a;
      a = (one + two) | 0;
    }
    for (const [i, word] of [a, b, c, d, e, f, g, h].entries()) state[i] = (state[i]! + word) | 0;
  }
}

const turned = (word: number, by: number): number => (word >>> by) | (word << (32 - by));

export const sha256 = (): PlainSha256 => new PlainSha256();

export const sha256Of = (part: Uint8Array | string): string => sha256().update(part).digest('hex');

/** How much is hashed between two turns of the event loop. */
const PIECE_BYTES = 1 << 22;

export async function sha256OfFile(file: string, sizeBytes: number, signal?: AbortSignal): Promise<string> {
  const bytes = readFileSync(file).subarray(0, sizeBytes);
  const hash = sha256();
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    hash.update(bytes.subarray(at, at + PIECE_BYTES));
    await nextTurn();
    signal?.throwIfAborted();
  }
  return hash.digest('hex');
}
