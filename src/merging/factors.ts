/** Arithmetic on terms of a merge that several methods share. */

import { denseSteps, wholeDelta } from '../adapters/delta.ts';
import { UsageError } from '../errors.ts';
import { type LowRank, sum } from '../linalg/low-rank.ts';
import { type Matrix, matrix } from '../linalg/matrix.ts';
import { addScaled } from '../linalg/products.ts';
import type { Steps } from '../pace.ts';
import type { MergeTerm } from './method.ts';

/**
 * Σ strength · ΔW exactly: factors side by side. Where these would be no smaller than ΔW itself, ΔW and an identity.
 */
export function* weightedSum(terms: readonly MergeTerm[]): Steps<LowRank> {
  const [m, n] = [terms[0]!.up.rows, terms[0]!.down.cols];
  const rank = terms.reduce((total, { up }) => total + up.cols, 0);
  if (rank <= Math.min(m, n)) {
    return sum(
      terms,
      terms.map((term) => term.scale * term.strength),
    );
  }
  const total = matrix(m, n);
  for (const term of terms) {
    const { data } = yield* denseSteps(term);
    addScaled(term.scale * term.strength, data, 0, total.data, 0, total.data.length);
    yield;
  }
  return wholeDelta(total);
}

/** scale · up · down written out, strength left aside. */
export function* denseTerm(term: MergeTerm): Steps<Matrix> {
  const dense = yield* denseSteps(term);
  for (let i = 0; i < dense.data.length; i++) dense.data[i]! *= term.scale;
  return dense;
}

/** The largest rank among the terms. */
export function largestRank(terms: readonly MergeTerm[]): number {
  return Math.max(...terms.map(({ up }) => up.cols));
}

/**
 * The two factors of every term, and √|strength · scale| for each, with the sign on the down factor: what methods that
 * merge factors instead of changes work on. Source: PEFT 0.21, tuners/lora/model.py
 * (_generalized_task_arithmetic_weighted_adapter).
 * @throws {UsageError} for unequal ranks
 */
export function factorTasks(method: string, terms: readonly MergeTerm[]): { ups: Task[]; downs: Task[] } {
  const ranks = new Set(terms.map(({ up }) => up.cols));
  if (ranks.size > 1) {
    throw new UsageError(
      `${method}: adds factors of equal rank, got ranks ${[...ranks].join(', ')}; use cat, svd${method === 'linear' ? '' : ` or ${method}-svd`}`,
    );
  }
  const roots = terms.map((term) => Math.sqrt(Math.abs(term.scale * term.strength)));
  const signs = terms.map((term) => (term.scale * term.strength < 0 ? -1 : 1));
  return {
    ups: terms.map(({ up }, i) => ({ values: up.data, weight: roots[i]! })),
    downs: terms.map(({ down }, i) => ({ values: down.data, weight: signs[i]! * roots[i]! })),
  };
}

/** Numbers of one adapter, and what they count for. */
export interface Task {
  readonly values: Float64Array;
  readonly weight: number;
}

/** What becomes of the numbers of all adapters. */
export type MergeRule = (tasks: readonly Task[]) => Steps<Float64Array>;

/** Σ weight · values. */
export function* addTasks(tasks: readonly Task[]): Steps<Float64Array> {
  const total = new Float64Array(tasks[0]!.values.length);
  for (const { values, weight } of tasks) {
    for (let i = 0; i < total.length; i++) total[i]! += weight * values[i]!;
    yield;
  }
  return total;
}

/** Merge both factors by one rule. */
export function* mergeFactors(method: string, terms: readonly MergeTerm[], rule: MergeRule): Steps<LowRank> {
  const { up, down } = terms[0]!;
  const { ups, downs } = factorTasks(method, terms);
  // PEFT draws DARE's masks for the down factors first.
  const mergedDown = yield* rule(downs);
  const mergedUp = yield* rule(ups);
  return { up: matrix(up.rows, up.cols, mergedUp), down: matrix(down.rows, down.cols, mergedDown) };
}

/** Merge the changes themselves by one rule. */
export function* mergeDense(terms: readonly MergeTerm[], rule: MergeRule): Steps<Matrix> {
  const tasks: Task[] = [];
  for (const term of terms) tasks.push({ values: (yield* denseTerm(term)).data, weight: term.strength });
  return matrix(terms[0]!.up.rows, terms[0]!.down.cols, yield* rule(tasks));
}
