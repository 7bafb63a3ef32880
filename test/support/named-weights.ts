/** Weights of any name and shape that follow from the name, the same in every program that has torch's generator. */
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import type { WeightSource } from '../../src/models/network.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

export const namedWeights: WeightSource = {
  label: 'random',
  get(name, shape) {
    if (shape === undefined) return undefined;
    const seed = [...name].reduce((sum, char) => (sum * 31 + char.charCodeAt(0)) % 100_003, 7);
    const count = shape.reduce((a, b) => a * b, 1);
    const scale = name.includes('norm') && name.endsWith('weight') ? 0 : 0.3;
    const values = new TorchGenerator(seed)
      .randn(count)
      .map((value) => scale * value + (scale === 0 ? 1 : 0));
    return float32Tensor(name, shape, values);
  },
};
