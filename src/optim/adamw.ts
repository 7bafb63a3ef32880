/**
 * AdamW as two plain functions: a state, and a step that changes parameters and state in place.
 *
 *   p ← p − lr · decay · p;  m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²
 *   p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
 *
 * Source: Loshchilov & Hutter, 1711.05101, algorithm 2, in the order of operations of torch.optim.AdamW.
 */
import { ShapeError } from '../errors.ts';

export interface AdamWOptions {
  /** Decay of the running means of g and g². Default 0.9 and 0.999. */
  readonly betas?: readonly [number, number];
  /** Default 1e-8. */
  readonly epsilon?: number;
  /** Default 0.01. */
  readonly weightDecay?: number;
}

/** Running means of one parameter's gradient and of its square, and the number of steps taken. */
export interface AdamWState {
  readonly mean: Float32Array;
  readonly square: Float32Array;
  step: number;
}

export function adamwState(size: number): AdamWState {
  return { mean: new Float32Array(size), square: new Float32Array(size), step: 0 };
}

/** One step. @throws {ShapeError} if the gradient has another size than the parameter */
export function adamwStep(
  parameter: Float32Array,
  gradient: Float32Array,
  state: AdamWState,
  learningRate: number,
  { betas = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0.01 }: AdamWOptions = {},
): void {
  if (gradient.length !== parameter.length) {
    throw new ShapeError(`gradient: expected ${parameter.length} numbers, got ${gradient.length}`);
  }
  const { mean, square } = state;
  state.step++;
  const keep = 1 - learningRate * weightDecay;
  const stepSize = learningRate / (1 - betas[0] ** state.step);
  const rootCorrection = Math.sqrt(1 - betas[1] ** state.step);
  for (let i = 0; i < parameter.length; i++) {
    const g = gradient[i]!;
    const m = mean[i]! + (1 - betas[0]) * (g - mean[i]!);
    const v = betas[1] * square[i]! + (1 - betas[1]) * g * g;
    mean[i] = m;
    square[i] = v;
    parameter[i] = parameter[i]! * keep - (stepSize * m) / (Math.sqrt(v) / rootCorrection + epsilon);
  }
}
