import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import { logFloat32, sinCosFloat32 } from '../../src/tensor/cephes-float32.ts';
import { Mt19937 } from '../../src/tensor/mt19937.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { goldenPath } from '../support/goldens.ts';

describe('MT19937', () => {
  it('gives the published 10000th word of seed 5489', () => {
    const bits = new Mt19937(5489);
    for (let i = 1; i < 10_000; i++) bits.nextUint32();
    expect(bits.nextUint32()).toBe(4123659995);
  });

  it('uses the low 32 bits of a seed, negative ones included', () => {
    expect(new Mt19937(2n ** 52n + 1n).nextUint32()).toBe(new Mt19937(1).nextUint32());
    expect(new Mt19937(-1).nextUint32()).toBe(new Mt19937(0xffffffff).nextUint32());
  });
});

describe('TorchGenerator', () => {
  it('gives torch’s float32 normals to the last bit (shipped goldens, made with AVX2)', async () => {
    const file = await openSafetensors(goldenPath('goldens/rng/rng.safetensors'));
    const names = [...file.tensors.keys()].filter((name) => /\/randn_[\dx]+$/.test(name));
    expect(names.length).toBeGreaterThan(0);
    for (const name of names) {
      const expected = readFloat32(file.tensors.get(name)!);
      const seed = BigInt(name.slice(1, name.indexOf('/')));
      expect(new TorchGenerator(seed).randn(expected.length), name).toEqual(expected);
    }
  });

  it('draws normals of mean 0 and variance 1 without a stray value', () => {
    const values = new TorchGenerator(7).randn(100_001);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.01);
    expect(Math.abs(variance - 1)).toBeLessThan(0.02);
    expect(values.every((value) => Math.abs(value) < 6)).toBe(true);
  });

  it('keeps its promises about ranges', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 0, max: 70 }), (seed, count) => {
        const generator = new TorchGenerator(seed);
        expect([...generator.randperm(count)].sort((a, b) => a - b)).toEqual(
          Array.from({ length: count }, (_, i) => i),
        );
        expect(generator.randint(-3, 4, count).every((value) => value >= -3 && value < 4)).toBe(true);
        expect(generator.rand(count).every((value) => value >= 0 && value < 1)).toBe(true);
        expect(generator.randn(count)).toHaveLength(count);
      }),
      { seed: 1, numRuns: 50 },
    );
  });

  it('continues its stream: equal seeds agree, draws of one generator differ', () => {
    const one = new TorchGenerator(3);
    const other = new TorchGenerator(3);
    expect(one.randn(20)).toEqual(other.randn(20));
    expect(one.randn(20)).not.toEqual(new TorchGenerator(3).randn(20));
  });

  it.each([1.5, Number.NaN, 2 ** 60])('refuses seed %s', (seed) => {
    expect(() => new TorchGenerator(seed)).toThrow(UsageError);
  });

  it('refuses empty ranges and impossible counts', () => {
    const generator = new TorchGenerator(0);
    expect(() => generator.randint(4, 4, 1)).toThrow(/low < high/);
    expect(() => generator.randn(-1)).toThrow(UsageError);
    expect(() => generator.randperm(0.5)).toThrow(UsageError);
  });
});

describe('single-precision Cephes', () => {
  it('is log, sine and cosine to about an ulp', () => {
    for (let i = 1; i < 5000; i++) {
      const u = Math.fround(i / 5000);
      expect(Math.abs(logFloat32(u) - Math.log(u))).toBeLessThan(3e-7 * Math.max(1, -Math.log(u)));
      const angle = Math.fround(2 * Math.PI * u);
      const [sine, cosine] = sinCosFloat32(angle);
      expect(Math.abs(sine - Math.sin(angle))).toBeLessThan(2e-7);
      expect(Math.abs(cosine - Math.cos(angle))).toBeLessThan(2e-7);
    }
  });
});
