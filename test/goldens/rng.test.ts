/**
 * torch's CPU generator against every torch draw of the rng goldens. The index tells how each tensor was drawn in its
 * name; the draws of one generator are replayed in file order. numpy's RandomState is not implemented (nothing uses it).
 */
import { describe, expect, it } from 'vitest';
import { readFloat64 } from '../../src/formats/raw-tensor.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

interface Draw {
  name: string;
  /** How it was drawn, in words; draws that go on with a generator say so here. */
  what: string;
  shape: number[];
  dtype: string;
}

const { draws } = goldenJson<{ draws: Draw[] }>('goldens/rng/rng.json');
const file = await openSafetensors(goldenPath('goldens/rng/rng.safetensors'));

/** Float32 normals are bit-identical to torch on x86 with AVX2; a set from another CPU may differ in the 7th digit. */
const NORMAL_TOLERANCE: Record<string, number> = {
  'torch.float32': 2e-6,
  'torch.float64': 1e-14,
  'torch.float16': 2e-3,
};

/** Numbers in a name such as `randint_0_2^40_6`. */
function numbersIn(text: string): number[] {
  return text.split('_').map((part) => {
    const [base, exponent] = part.split('^').map(Number);
    return exponent === undefined ? base! : base! ** exponent;
  });
}

function normals(generator: TorchGenerator, { dtype, shape }: Draw): ArrayLike<number> {
  const count = shape.reduce((a, b) => a * b, 1);
  if (dtype === 'torch.float64') return generator.randnFloat64(count);
  return dtype === 'torch.float16' ? generator.randnFloat16(count) : generator.randn(count);
}

/** Replay one draw; `null` for a kind of draw that the name does not tell. */
function replay(generator: TorchGenerator, seed: bigint, draw: Draw): ArrayLike<number> | null {
  const count = draw.shape.reduce((a, b) => a * b, 1);
  const kind = draw.name.slice(draw.name.indexOf('/') + 1).replace(/^mix_/, '');
  if (kind.startsWith('randn_list_')) {
    const each = count / draw.shape[0]!;
    return Array.from({ length: draw.shape[0]! }, (_, i) =>
      Array.from(new TorchGenerator(seed + BigInt(i)).randn(each)),
    ).flat();
  }
  if (kind.startsWith('randn_') || kind.startsWith('global_randn_')) return normals(generator, draw);
  if (kind.startsWith('rand_'))
    return kind.includes('f64') ? generator.randFloat64(count) : generator.rand(count);
  if (kind.startsWith('randint_') && draw.name.includes('/mix_')) {
    const [, low, high] = /randint\((-?\d+),(-?\d+),/.exec(mixOf(draw))!.map(Number) as [
      number,
      number,
      number,
    ];
    return generator.randint(low, high, count);
  }
  if (kind.startsWith('randint_')) {
    const [low, high] = numbersIn(kind.slice('randint_'.length)) as [number, number];
    return generator.randint(low, high, count);
  }
  if (kind.startsWith('randperm_')) return generator.randperm(count);
  if (kind.startsWith('bernoulli_')) {
    return generator.bernoulli(numbersIn(kind.slice('bernoulli_'.length))[0]!, count);
  }
  if (kind.startsWith('uniform_')) {
    const [from, to] = numbersIn(kind.slice('uniform_'.length)) as [number, number];
    return generator.rand(count, from, to);
  }
  if (kind.startsWith('normal_')) {
    const [mean, deviation] = numbersIn(kind.slice('normal_'.length)) as [number, number];
    return Float32Array.from(generator.randn(count), (x) => x * deviation + mean);
  }
  return null;
}

/** The head of a mixed sequence lists all of its draws; the others refer to it: "see mix_…". */
function mixOf({ name, what }: Draw): string {
  const head = /^see (\S+)$/.exec(what)?.[1];
  if (head === undefined) return what;
  return draws.find((draw) => draw.name === `${name.slice(0, name.indexOf('/'))}/${head}`)!.what;
}

/** Draws that continue the generator of the draw before. */
function continues({ what }: Draw): boolean {
  return /^see |second of/.test(what);
}

const torchDraws = draws.filter((draw) => !draw.name.includes('/np_'));
const seeds = [...new Set(torchDraws.map((draw) => draw.name.slice(0, draw.name.indexOf('/'))))];

describe.each(seeds)('seed %s', (prefix) => {
  it('every draw', () => {
    const seed = BigInt(prefix.slice(1));
    let generator = new TorchGenerator(seed);
    const own = torchDraws.filter((draw) => draw.name.startsWith(`${prefix}/`));
    for (const draw of own) {
      if (!continues(draw)) generator = new TorchGenerator(seed);
      const actual = replay(generator, seed, draw);
      expect(actual, `${draw.name}: how it was drawn`).not.toBeNull();
      const expected = readFloat64(file.tensors.get(draw.name)!);
      const isNormal = /normal|randn/.test(draw.name);
      if (isNormal)
        expect(actual!, draw.name).toBeAllClose(expected, { rtol: 0, atol: NORMAL_TOLERANCE[draw.dtype]! });
      else expect(Array.from(actual!), draw.name).toEqual(Array.from(expected));
    }
  });
});
