/** Small sums of matrices that the solve and the objective of the words share. */
import { type Matrix, matrix } from '../../linalg/matrix.ts';

/** a A + b B; an empty B counts as zeros. */
export function combined(a: Matrix, factorA: number, b: Matrix, factorB: number): Matrix {
  const data = new Float64Array(a.data.length);
  for (let i = 0; i < data.length; i++) data[i] = factorA * a.data[i]! + factorB * (b.data[i] ?? 0);
  return matrix(a.rows, a.cols, data);
}

export function addDiagonal({ rows, data }: Matrix, value: number): void {
  for (let i = 0; i < rows; i++) data[i * rows + i]! += value;
}

export function trace({ rows, data }: Matrix): number {
  let sum = 0;
  for (let i = 0; i < rows; i++) sum += data[i * rows + i]!;
  return sum;
}

/** Σ aᵢⱼ² */
export function energy({ data }: Matrix): number {
  let sum = 0;
  for (const value of data) sum += value * value;
  return sum;
}

/** Σ aᵢⱼ bᵢⱼ */
export function inner(a: Matrix, b: Matrix): number {
  let sum = 0;
  for (let i = 0; i < a.data.length; i++) sum += a.data[i]! * b.data[i]!;
  return sum;
}
