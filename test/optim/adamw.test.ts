import { describe, expect, it } from 'vitest';
import { adamwState, adamwStep } from '../../src/optim/adamw.ts';
import { learningRate } from '../../src/optim/learning-rate.ts';

describe('AdamW', () => {
  it('takes a step of the learning rate against the sign of the first gradient', () => {
    const parameter = Float32Array.of(1, -2, 3);
    adamwStep(parameter, Float32Array.of(0.5, -4, 1e-3), adamwState(3), 0.1, { weightDecay: 0 });
    expect(parameter).toBeAllClose([0.9, -1.9, 2.9], { rtol: 1e-5 });
  });

  it('decays weights apart from the gradient', () => {
    const parameter = Float32Array.of(2);
    adamwStep(parameter, Float32Array.of(0), adamwState(1), 0.1, { weightDecay: 0.5 });
    expect(parameter[0]).toBeCloseTo(2 * (1 - 0.05), 6);
  });

  it('finds the minimum of a quadratic', () => {
    const parameter = Float32Array.of(5, -3);
    const state = adamwState(2);
    for (let i = 0; i < 2000; i++) {
      const gradient = Float32Array.of(2 * (parameter[0]! - 1), 8 * (parameter[1]! - 2));
      adamwStep(parameter, gradient, state, 0.05 * (1 - i / 2000), { weightDecay: 0 });
    }
    expect(parameter).toBeAllClose([1, 2], { rtol: 1e-3 });
  });

  it('refuses a gradient of another size', () => {
    expect(() => adamwStep(new Float32Array(2), new Float32Array(3), adamwState(2), 1)).toThrow(
      'expected 2 numbers, got 3',
    );
  });
});

describe('learning rates', () => {
  it('fall in a line from the full rate to zero', () => {
    expect([0, 5, 10].map((step) => learningRate('linear', 2, step, 10))).toEqual([2, 1, 0]);
  });
  it('rise first where asked to', () => {
    expect([0, 1, 2, 4, 6].map((step) => learningRate('linear', 8, step, 6, 2))).toEqual([0, 4, 8, 4, 0]);
  });
  it('stay, or follow a cosine', () => {
    expect(learningRate('constant', 3, 7, 10)).toBe(3);
    expect(learningRate('cosine', 2, 5, 10)).toBeCloseTo(1, 12);
  });
});
