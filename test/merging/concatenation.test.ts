/** The direct way of `cat` against the general one: the same bits. */
import { describe, expect, it } from 'vitest';
import { layerDelta } from '../../src/adapters/delta.ts';
import { encodeLayer, type FactorDType } from '../../src/adapters/encode-layer.ts';
import { readBytes } from '../../src/formats/raw-tensor.ts';
import { concatenate } from '../../src/merging/concatenation.ts';
import { weightedSum } from '../../src/merging/factors.ts';
import { inOneGo } from '../../src/pace.ts';
import { allLayers, randomAdapter } from './random-adapters.ts';

const types: FactorDType[] = ['F32', 'F16', 'BF16'];
const strengths = [0.7, -1.3, 2];

/** The three layers at one place of random adapters of different ranks, alphas and types. */
function partsAt(index: number) {
  return types.map((dtype, i) => ({
    layer: randomAdapter(allLayers, { seed: i, rank: 1 + i, loraAlpha: 3, dtype }).layers[index]!,
    strength: strengths[i]!,
  }));
}

describe('concatenate', () => {
  it.each(types)('to %s gives what cat gives', (dtype) => {
    allLayers.forEach(({ module, kernel }, i) => {
      const parts = partsAt(i);
      const direct = concatenate(module, kernel, parts, dtype)!;
      const terms = parts.map(({ layer, strength }) => ({ ...layerDelta(layer), strength }));
      const sum = inOneGo(weightedSum(terms));
      const general = encodeLayer(module, kernel, sum, dtype);
      const { up, down, ...info } = direct;
      expect({ ...info, up: up.shape, down: down.shape }).toEqual({
        ...general,
        up: general.up.shape,
        down: general.down.shape,
      });
      expect(readBytes(up)).toEqual(readBytes(general.up));
      expect(readBytes(down)).toEqual(readBytes(general.down));
    });
  });

  it('leaves to the general way what is out of the ordinary', () => {
    const { module, kernel } = allLayers[0]!;
    const parts = partsAt(0);
    const whole = Array.from({ length: 6 }, () => parts).flat();
    expect(concatenate(module, kernel, whole, 'F32')).toBeNull();
    const large = parts.map((part) => ({ ...part, strength: 1e6 }));
    expect(concatenate(module, kernel, large, 'F16')).toBeNull();
    expect(concatenate(module, kernel, [...parts, partsAt(1)[0]!], 'F32')).toBeNull();
    expect(concatenate(module, kernel, [{ ...parts[0]!, strength: Number.NaN }], 'F32')).toBeNull();
  });
});
