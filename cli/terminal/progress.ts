/**
 * Progress on standard error: one line that redraws itself on a terminal, otherwise a plain line at every change of
 * activity and every few seconds. What takes longer than a minute is said beforehand, on a line that stays.
 */
import { visible } from '../../src/visible.ts';
import { type Io, paint } from './io.ts';
import { duration, shorten } from './table.ts';
import { type Done, TimeLeft } from './time-left.ts';

export interface ProgressState extends Done {
  /** What is going on, e.g. `spatial: collecting <smiley1> <smiley2>`. */
  readonly activity: string;
}

const REDRAW_MS = 100;
const PLAIN_LINE_MS = 5000;
const BAR_WIDTH = 20;
const LONG_MS = 60_000;

export interface ProgressSettings {
  /** Units cost differently from group to group: time left is told by the present group's speed. Default false. */
  readonly unequalGroups?: boolean;
}

export class ProgressLine {
  readonly #io: Io;
  readonly #unequalGroups: boolean;
  readonly #timeLeft: TimeLeft;
  #lastLine = Number.NEGATIVE_INFINITY;
  #lastGroup = '';
  #drawn = false;
  /** What it was said of how long it takes: groups, or all with an empty name. */
  readonly #foretold = new Set<string>();

  constructor(io: Io, { unequalGroups = false }: ProgressSettings = {}) {
    this.#io = io;
    this.#unequalGroups = unequalGroups;
    this.#timeLeft = new TimeLeft(unequalGroups);
  }

  /** @param group changes of it are worth a plain line at once, e.g. the stage */
  update(state: ProgressState, group: string): void {
    const { activity, done, total, share = done / total } = state;
    const now = performance.now();
    const since = now - this.#lastLine;
    const left = this.#timeLeft.after(state, group);
    if (left !== null) this.#foretell(left, state.share === undefined && this.#unequalGroups ? group : '');
    const numbers = `${done}/${total}${left === null ? '' : `, ${duration(left)} left`}`;
    if (this.#io.interactive) {
      if (since < REDRAW_MS && done < total) return;
      const filled = Math.min(BAR_WIDTH, Math.round(BAR_WIDTH * share));
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

  /** Once, as soon as it is known. @param group that it is about; empty: all of the work */
  #foretell(left: number, group: string): void {
    if (!this.#foretold.has(group) && left >= LONG_MS) {
      this.finish();
      this.#io.err(`${group === '' ? '' : `${group}: `}about ${duration(left)} to go\n`);
    }
    this.#foretold.add(group);
  }
}
