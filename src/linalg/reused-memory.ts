/**
 * Memory that the matrices of one input after another lie in: to make each anew costs more than what is computed with it, and ever
 * new large arrays keep the garbage collector busy.
 */
export class ReusedMemory {
  readonly #pieces: Float64Array<ArrayBuffer>[] = [];
  #used = 0;

  /** So many numbers, whatever they are; they are given away again after `reuse`. */
  take(count: number): Float64Array<ArrayBuffer> {
    const at = this.#used++;
    if ((this.#pieces[at]?.length ?? -1) < count) this.#pieces[at] = new Float64Array(count);
    return this.#pieces[at]!.subarray(0, count);
  }

  /** Nobody needs what was taken any more. */
  reuse(): void {
    this.#used = 0;
  }
}

/** Numbers of a memory, or new ones without. */
export function numbersOf(memory: ReusedMemory | undefined, count: number): Float64Array<ArrayBuffer> {
  return memory?.take(count) ?? new Float64Array(count);
}
