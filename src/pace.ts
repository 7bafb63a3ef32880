/**
 * Long computations that let others have their turn: signals, timers, files that are read beside them. A computation is
 * written once, as a generator that yields wherever it may be interrupted; it runs in one go, or at a pace.
 */
import { nextTurn } from './io/platform/machine.ts';

/** A computation in pieces of some milliseconds. Where the pieces end changes nothing of the result. */
export type Steps<T> = Generator<undefined, T, undefined>;

/** How long one piece of work after the other may go on before the event loop turns. */
const TURN_MS = 20;

/** When the loop turned last, as far as any pace of this process knows: all of them share one thread. */
let turned = 0;

/** Runs computations step by step, and ends them when its signal says so. */
export class Pace {
  readonly #signal: AbortSignal | undefined;

  /** @param signal its reason is thrown at the next step once it is aborted. Default: never */
  constructor(signal?: AbortSignal) {
    this.#signal = signal;
  }

  /**
   * Between two steps: let the event loop turn if it has not done so for a while.
   * @throws the signal's reason
   */
  async turn(): Promise<void> {
    if (performance.now() - turned >= TURN_MS) {
      // The first ends the turn in which something else was done until now, and timers come after it.
      await nextTurn();
      await nextTurn();
      turned = performance.now();
    }
    this.#signal?.throwIfAborted();
  }

  /** The result of a computation. @throws what it throws, and the signal's reason */
  async run<T>(steps: Steps<T>): Promise<T> {
    for (;;) {
      const { done, value } = steps.next();
      if (done === true) return value;
      if (performance.now() - turned >= TURN_MS) await this.turn();
    }
  }

  /** The same items with a turn after each. */
  async *over<T>(items: Iterable<T>): AsyncGenerator<T> {
    for (const item of items) {
      yield item;
      await this.turn();
    }
  }
}

/** The result of a computation whose steps are known to be few. */
export function inOneGo<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}
