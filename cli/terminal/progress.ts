/**
 * Progress on standard error: one line that redraws itself on a terminal, otherwise a plain line at every change of
 * activity and every few seconds.
 */
import { visible } from '../../src/visible.ts';
import { type Io, paint } from './io.ts';
import { duration, shorten } from './table.ts';

export interface ProgressState {
  /** What is going on, e.g. `spatial: collecting <smiley1> <smiley2>`. */
  readonly activity: string;
  readonly done: number;
  readonly total: number;
}

const REDRAW_MS = 100;
const PLAIN_LINE_MS = 5000;
const BAR_WIDTH = 20;

/** Units that tell a group's speed. */
const FEWEST_UNITS = 3;

export interface ProgressSettings {
  /** Units cost differently from group to group: time left is told by the present group's speed. Default false. */
  readonly unequalGroups?: boolean;
}

export class ProgressLine {
  readonly #io: Io;
  readonly #unequalGroups: boolean;
  #lastLine = Number.NEGATIVE_INFINITY;
  #lastGroup = '';
  #drawn = false;
  /** Since when speed is measured. */
  #start = { group: '', at: performance.now(), done: 0 };

  constructor(io: Io, { unequalGroups = false }: ProgressSettings = {}) {
    this.#io = io;
    this.#unequalGroups = unequalGroups;
  }

  /** @param group changes of it are worth a plain line at once, e.g. the stage */
  update({ activity, done, total }: ProgressState, group: string): void {
    const now = performance.now();
    const since = now - this.#lastLine;
    if (this.#unequalGroups && group !== this.#start.group) this.#start = { group, at: now, done };
    const units = done - this.#start.done;
    const fewest = this.#unequalGroups ? FEWEST_UNITS : 1;
    const left = units < fewest ? null : ((now - this.#start.at) / units) * (total - done);
    const numbers = `${done}/${total}${left === null ? '' : `, ${duration(left)} left`}`;
    if (this.#io.interactive) {
      if (since < REDRAW_MS && done < total) return;
      const filled = Math.round((BAR_WIDTH * done) / total);
      const bar = '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled);
      const room = Math.max(10, this.#io.columns - BAR_WIDTH - numbers.length - 4);
      this.#io.redraw(`${paint(this.#io, 'cyan', bar)} ${numbers}  ${shorten(visible(activity), room)}`);
      this.#drawn = true;
    } else {
      if (group === this.#lastGroup && since < PLAIN_LINE_MS) return;
      this.#io.err(`${visible(activity)} (${numbers})\n`);
    }
    this.#lastLine = now;
    this.#lastGroup = group;
  }

  /** Clear the line; what follows starts on a fresh one. */
  finish(): void {
    if (this.#drawn) this.#io.redraw('');
    this.#drawn = false;
  }
}
