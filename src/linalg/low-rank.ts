/**
 * Deltas of linear layers as factors, ΔW = up · down, never expanded needlessly.
 * Every scale (strength, loraAlpha / rank) is already inside the factors.
 */
import type { Matrix } from './matrix.ts';

/** ΔW [m, n] = up [m, r] · down [r, n]. */
export interface LowRank {
  readonly up: Matrix;
  readonly down: Matrix;
}
