/** Checks by what a descent does not learn from: which step was the best, and when it is enough. */

export interface HeldOutCheck {
  /** Steps done; 0 is the start. */
  readonly step: number;
  /** The error on what is held out. */
  readonly error: number;
}

/** Checks in a row without a better one that are enough. */
const PATIENCE = 2;

export class BestCheck {
  /** In the order in which they were made. */
  readonly checks: HeldOutCheck[] = [];
  #best: HeldOutCheck = { step: 0, error: Number.POSITIVE_INFINITY };

  /** @returns whether it is the best so far */
  add(check: HeldOutCheck): boolean {
    this.checks.push(check);
    const isBetter = check.error < this.#best.error;
    if (isBetter) this.#best = check;
    return isBetter;
  }

  /** Whether the last checks found nothing better. */
  get isEnough(): boolean {
    return this.checks.length > PATIENCE && this.checks.at(-PATIENCE - 1)!.step >= this.#best.step;
  }
}
