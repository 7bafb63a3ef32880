/** The form of a shape rule, and the checks that rules share. */
import { ShapeError } from '../../errors.ts';
import type { OpAttributes, OpType } from '../op-types.ts';
import type { GraphDType, ValueSpec } from '../value.ts';

export type ShapeRule<K extends OpType> = (
  inputs: readonly (ValueSpec | null)[],
  attributes: OpAttributes[K],
) => ValueSpec[];

export type ShapeRules<K extends OpType> = { readonly [P in K]: ShapeRule<P> };

/** An input that the operator cannot do without. @throws {ShapeError} if it is missing. */
export function required(inputs: readonly (ValueSpec | null)[], index: number): ValueSpec {
  const input = inputs[index];
  if (input === undefined || input === null) throw new ShapeError(`input ${index} is missing`);
  return input;
}

/** @throws {ShapeError} unless `spec` has `rank` axes */
export function expectRank(spec: ValueSpec, rank: number, what: string): void {
  if (spec.shape.length !== rank) {
    throw new ShapeError(`${what}: expected ${rank} axes, got [${spec.shape.join(', ')}]`);
  }
}

/** @throws {ShapeError} unless the two shapes are equal */
export function expectShape(spec: ValueSpec, shape: readonly number[], what: string): void {
  if (spec.shape.length !== shape.length || shape.some((dim, i) => dim !== spec.shape[i])) {
    throw new ShapeError(`${what}: expected [${shape.join(', ')}], got [${spec.shape.join(', ')}]`);
  }
}

/** The common dtype of all given inputs. @throws {ShapeError} if they differ. */
export function sameDtype(inputs: readonly (ValueSpec | null)[]): GraphDType {
  const dtypes = [...new Set(inputs.filter((input) => input !== null).map((input) => input.dtype))];
  if (dtypes.length !== 1) throw new ShapeError(`expected inputs of one dtype, got ${dtypes.join(' and ')}`);
  return dtypes[0]!;
}

/** An axis counted from the front; negative ones count from the back. @throws {ShapeError} if out of range. */
export function normalAxis(axis: number, rank: number): number {
  const normal = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(normal) || normal < 0 || normal >= rank) {
    throw new ShapeError(`axis ${axis}: expected one of ${rank} axes`);
  }
  return normal;
}

/** NumPy broadcasting. @throws {ShapeError} if two axes differ and neither is 1. */
export function broadcastShapes(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const p = a[i - rank + a.length] ?? 1;
    const q = b[i - rank + b.length] ?? 1;
    if (p !== q && p !== 1 && q !== 1) {
      throw new ShapeError(
        `cannot broadcast [${a.join(', ')}] with [${b.join(', ')}]: axis ${i} is ${p} and ${q}`,
      );
    }
    return p === 1 ? q : p;
  });
}
