/** How long the rest of some work takes, told by the speed so far. */

export interface Done {
  readonly done: number;
  readonly total: number;
  /** Part of the work that is done, 0–1, where units are known to cost differently. */
  readonly share?: number;
}

/** Units that tell a group's speed where groups differ by nobody knows what. */
const FEWEST_UNITS = 3;
/** Part of all work that tells its speed: less is more of a beginning than of the work. */
const LEAST_SHARE = 0.002;

export class TimeLeft {
  readonly #unequalGroups: boolean;
  #group: string | null = null;
  /** Since when speed is measured: a group's first unit has waited for what had to be loaded. */
  #start = { at: 0, done: 0, share: 0 };
  /** Milliseconds of all the work, by the last group that told its speed. */
  #whole: number | null = null;

  /** @param unequalGroups whether units without a share cost differently from group to group */
  constructor(unequalGroups: boolean) {
    this.#unequalGroups = unequalGroups;
  }

  /** Milliseconds; null while nobody can know. */
  after({ done, total, share }: Done, group: string): number | null {
    const now = { at: performance.now(), done, share: share ?? 0 };
    const differs = group !== this.#group && (this.#unequalGroups || share !== undefined);
    if (differs || this.#group === null) [this.#start, this.#group] = [now, group];
    const elapsed = now.at - this.#start.at;
    if (share !== undefined) {
      const part = share - this.#start.share;
      if (part >= LEAST_SHARE) this.#whole = elapsed / part;
      return this.#whole === null ? null : this.#whole * (1 - share);
    }
    const units = done - this.#start.done;
    if (units < (this.#unequalGroups ? FEWEST_UNITS : 1)) return null;
    return (elapsed / units) * (total - done);
  }
}
