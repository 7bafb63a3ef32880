/** Weights of any network, made as they are asked for: what a builder reads of it is what such a model holds. */
import { float32Tensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import type { WeightSource } from '../../src/models/network.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

export interface RandomWeights {
  readonly source: WeightSource;
  /** Those that were asked for, in that order; the same for the same questions. */
  readonly asked: ReadonlyMap<string, RawTensor>;
}

/** @param spread standard deviation of what is no norm's weight; those are 1 */
export function randomWeights(spread = 0.25): RandomWeights {
  const asked = new Map<string, RawTensor>();
  const get = (name: string, shape?: readonly number[]): RawTensor | undefined => {
    const known = asked.get(name);
    if (known !== undefined || shape === undefined) return known;
    const size = shape.reduce((a, b) => a * b, 1);
    const values = new TorchGenerator(asked.size + 1).randn(size);
    const scaled = /norm\d?\.weight$/.test(name) ? values.fill(1) : values.map((value) => value * spread);
    const tensor = float32Tensor(name, shape, scaled);
    asked.set(name, tensor);
    return tensor;
  };
  return { source: { label: 'random', get }, asked };
}
