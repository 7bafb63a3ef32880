/**
 * The bytes of a checkpoint's weights in blocks, changed on the way: while one block is written the next is filled, in a
 * second buffer. Nothing else of the weights is in memory. Unchanged neighbours are read in one stretch.
 */

import { readFinite } from '../adapters/finite.ts';
import { FormatError, NumericalError } from '../errors.ts';
import { type DType, decodeFloat32, dtypeWidth, encodeFloat, type WritableFloat } from '../formats/dtype.ts';
import { areFinite } from '../formats/finite.ts';
import { byteRangeOf, elementCount, type RawTensor, readBytes } from '../formats/raw-tensor.ts';
import type { ByteRange } from '../formats/tensor-storage.ts';
import { checkUnchanged, type FileIdentity } from '../io/file-identity.ts';
import { type FileHandle, open } from '../io/platform/disk.ts';
import { freshBytes } from '../io/platform/machine.ts';
import { Pace } from '../pace.ts';
import type { FactorAddition, JoinedFactors } from './factor-addition.ts';

/** A tensor to be written. */
export interface BakedWeight {
  readonly name: string;
  /** To write; the source's own unless both are floating-point. */
  readonly dtype: DType;
  readonly source: RawTensor;
  /** Added to it; `null` if nothing is. */
  readonly change:
    | {
        readonly kind: 'factors';
        readonly rows: number;
        readonly read: () => JoinedFactors | Promise<JoinedFactors>;
      }
    | { readonly kind: 'bias'; readonly read: () => readonly { values: Float64Array; strength: number }[] }
    | null;
}

export interface BlockSizes {
  /** Bytes written at a time. */
  readonly block: number;
  /** Bytes copied at a time: blocks are filled to at least three quarters. */
  readonly copy: number;
  /** Numbers changed at a time: they stay in the processor's cache between the steps of the addition. */
  readonly piece: number;
}

const BLOCK_SIZES: BlockSizes = { block: 1 << 24, copy: 1 << 22, piece: 1 << 20 };

/** Bytes of the output that are made in one go. */
interface Piece {
  readonly length: number;
  /** Of its numbers, in bytes. */
  readonly width: number;
  fill(target: Uint8Array): Promise<void>;
}

/**
 * All bytes in order. A block is valid until the next but one is asked for.
 * @param onBytes called with the size of each piece when it is made
 * @param sizes   of what is handled at a time; the bytes do not depend on them
 * @param pace    between pieces
 * @throws {NumericalError} if a number does not fit its dtype; {FormatError} if a source cannot be read, or changes meanwhile
 */
export async function* weightBlocks(
  weights: readonly BakedWeight[],
  addition: FactorAddition,
  onBytes: (sizeBytes: number) => void,
  sizes: BlockSizes = BLOCK_SIZES,
  pace: Pace = new Pace(),
): AsyncGenerator<Uint8Array> {
  const files = new OpenFiles();
  const pieces = piecesOf(weights, addition, files, sizes);
  let waiting: Piece | undefined = pieces.next().value;
  const fill = async (buffer: Uint8Array): Promise<Uint8Array> => {
    // A single row may be larger than a block.
    const block = (waiting?.length ?? 0) <= buffer.length ? buffer : freshBytes(waiting!.length);
    let used = 0;
    while (waiting !== undefined && used + waiting.length <= block.length && used % waiting.width === 0) {
      await waiting.fill(block.subarray(used, used + waiting.length));
      used += waiting.length;
      onBytes(waiting.length);
      await pace.turn();
      waiting = pieces.next().value;
    }
    return block.subarray(0, used);
  };
  let [current, other] = [freshBytes(sizes.block), freshBytes(sizes.block)];
  let next = fill(current);
  try {
    for (;;) {
      const block = await next;
      if (block.length === 0) {
        files.checkUnchanged();
        break;
      }
      [current, other] = [other, current];
      next = fill(current);
      // A failure is reported when its turn comes, not as an unhandled one.
      next.catch(() => undefined);
      yield block;
    }
  } finally {
    await next.catch(() => undefined);
    await files.close();
  }
}

function* piecesOf(
  weights: readonly BakedWeight[],
  addition: FactorAddition,
  files: OpenFiles,
  { copy, piece }: BlockSizes,
): Generator<Piece, undefined> {
  let stretch: Stretch | null = null;
  for (const weight of weights) {
    const { source, dtype, change } = weight;
    const range = change === null && dtype === source.dtype ? byteRangeOf(source) : null;
    if (stretch !== null && range !== null && follows(stretch, range)) {
      stretch = {
        file: stretch.file,
        opened: stretch.opened,
        offset: stretch.offset,
        length: stretch.length + range.length,
        width: stretch.width,
      };
      continue;
    }
    if (stretch !== null) yield* copies(stretch, files, copy);
    stretch =
      range === null
        ? null
        : { ...range, width: Math.ceil(dtypeWidth(dtype)), opened: source.storage.opened };
    if (range === null) yield* made(weight, addition, files, piece);
  }
  if (stretch !== null) yield* copies(stretch, files, copy);
  return undefined;
}

/** Unchanged bytes of a file. */
interface Stretch extends ByteRange {
  readonly width: number;
  readonly opened: FileIdentity | undefined;
}

function follows({ file, offset, length }: Stretch, range: ByteRange): boolean {
  return file === range.file && offset + length === range.offset;
}

function* copies(
  { file, opened, offset, length, width }: Stretch,
  files: OpenFiles,
  copyBytes: number,
): Generator<Piece> {
  for (let done = 0; done < length; done += copyBytes) {
    const from = offset + done;
    yield {
      length: Math.min(copyBytes, length - done),
      width,
      fill: (target) => files.read(file, opened, from, target),
    };
  }
}

/** Pieces of a tensor that is changed, of another dtype, or not in one stretch of a file. */
function* made(
  weight: BakedWeight,
  addition: FactorAddition,
  files: OpenFiles,
  pieceNumbers: number,
): Generator<Piece> {
  const { source, dtype, change } = weight;
  const total = elementCount(source.shape);
  if (total === 0) return;
  const width = dtypeWidth(dtype);
  const read = readerOf(source, files);
  if (change?.kind !== 'factors') {
    const terms = change === null ? null : change.read();
    const step = terms === null ? pieceNumbers : total;
    for (let begin = 0; begin < total; begin += step) {
      const count = Math.min(step, total - begin);
      yield {
        length: count * width,
        width: Math.ceil(width),
        fill: async (target) => {
          const bytes = await read(begin, count);
          if (dtype === source.dtype && terms === null) return target.set(bytes);
          const values = Float32Array.from(decodeFloat32(bytes, source.dtype));
          for (const { values: own, strength } of terms ?? []) {
            for (let i = 0; i < count; i++) values[i]! += strength * own[i]!;
          }
          target.set(encodeFloat(values, dtype as WritableFloat));
          refuseInfinite(weight, target);
        },
      };
    }
    return;
  }
  const n = total / change.rows;
  const pieces = Math.ceil(change.rows / Math.max(1, Math.floor(pieceNumbers / n)));
  const step = Math.ceil(change.rows / pieces);
  let factors: JoinedFactors | null = null;
  for (let begin = 0; begin < change.rows; begin += step) {
    const rows = Math.min(step, change.rows - begin);
    yield {
      length: rows * n * width,
      width,
      fill: async (target) => {
        factors ??= await change.read();
        const bytes = await read(begin * n, rows * n);
        // The runtime knows halves; every other type is decoded and encoded here.
        const own = source.dtype === 'F16' ? halves(bytes) : decodeFloat32(bytes, source.dtype);
        if (dtype === 'F16') await addition.addRows(factors, begin, own, halves(target));
        else if (dtype === 'F32') await addition.addRows(factors, begin, own, singles(target));
        else {
          const sum = new Float32Array(rows * n);
          await addition.addRows(factors, begin, own, sum);
          target.set(encodeFloat(sum, dtype as WritableFloat));
        }
        refuseInfinite(weight, target);
      },
    };
  }
}

const halves = (bytes: Uint8Array): Uint16Array =>
  new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
const singles = (bytes: Uint8Array): Float32Array =>
  new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);

/** Reads numbers [begin, begin + count) as bytes, aligned, valid until the next read. */
function readerOf(
  tensor: RawTensor,
  files: OpenFiles,
): (begin: number, count: number) => Promise<Uint8Array> {
  const width = dtypeWidth(tensor.dtype);
  const range = byteRangeOf(tensor);
  if (range !== null) {
    return async (begin, count) => {
      const target = files.scratch(count * width);
      await files.read(range.file, tensor.storage.opened, range.offset + begin * width, target);
      return target;
    };
  }
  let whole: Uint8Array | null = null;
  return async (begin, count) => {
    whole ??= readBytes(tensor);
    return whole.slice(begin * width, (begin + count) * width);
  };
}

/** @throws {FormatError} if the base holds what is no finite number; {NumericalError} if a sum is none that the dtype can hold */
function refuseInfinite({ name, dtype, source }: BakedWeight, bytes: Uint8Array): void {
  if (areFinite(bytes, dtype)) return;
  readFinite(source);
  throw new NumericalError(`${name}: expected numbers that ${dtype} can hold, got an infinite one or NaN`, {
    layer: name,
  });
}

/** Files kept open, and one buffer to read into that grows as needed. */
class OpenFiles {
  readonly #handles = new Map<string, FileHandle>();
  readonly #opened = new Set<FileIdentity>();
  #scratch: Uint8Array = new Uint8Array(0);

  /** `length` bytes, aligned for any number; the same memory each time. */
  scratch(length: number): Uint8Array {
    if (this.#scratch.length < length) this.#scratch = freshBytes(length);
    return this.#scratch.subarray(0, length);
  }

  async read(
    file: string,
    opened: FileIdentity | undefined,
    offset: number,
    target: Uint8Array,
  ): Promise<void> {
    let handle = this.#handles.get(file);
    if (handle === undefined) {
      handle = await open(file);
      this.#handles.set(file, handle);
    }
    if (opened !== undefined && !this.#opened.has(opened)) {
      checkUnchanged([opened]);
      this.#opened.add(opened);
    }
    for (let done = 0; done < target.length; ) {
      const { bytesRead } = await handle.read(target, done, target.length - done, offset + done);
      if (bytesRead === 0)
        throw new FormatError(file, `ended at byte ${offset + done}; changed while it was read?`);
      done += bytesRead;
    }
  }

  /** @throws {FormatError} if a file that was read is not what it was when its tensors were found in it */
  checkUnchanged(): void {
    checkUnchanged(this.#opened);
  }

  async close(): Promise<void> {
    for (const handle of this.#handles.values()) await handle.close();
  }
}
