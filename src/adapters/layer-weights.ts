/** What a layer's parts are together: one kind of weights with all its factors, their rank and their kernel. */
import type { FormatError } from '../errors.ts';
import { elementCount, type RawTensor, readFloat64 } from '../formats/raw-tensor.ts';
import type { FullFactor, Kernel, LayerWeights, PairFactor } from './adapter.ts';
import { type AdapterPart, partSuffix } from './schemes/suffixes.ts';

export type Parts = ReadonlyMap<AdapterPart, RawTensor>;

/** The error of a layer. */
export type Fail = (message: string) => FormatError;

const kindParts: Readonly<Record<'lora' | 'loha' | 'lokr' | 'ia3' | 'diff', readonly AdapterPart[]>> = {
  lora: ['up', 'down', 'mid'],
  loha: ['w1a', 'w1b', 'w2a', 'w2b', 't1', 't2'],
  lokr: ['k1', 'k1a', 'k1b', 'k2', 'k2a', 'k2b', 'k1t', 'k2t'],
  ia3: ['ia3', 'onInput'],
  diff: ['diff'],
};

/** @throws {FormatError} for half pairs and mixed kinds */
export function weightsOf(parts: Parts, fail: Fail): LayerWeights {
  const kinds = (Object.keys(kindParts) as (keyof typeof kindParts)[]).filter((kind) =>
    kindParts[kind].some((part) => parts.has(part)),
  );
  if (kinds.length === 0) {
    throw fail('a magnitude (DoRA) without factors; truncated or half converted?');
  }
  if (kinds.length > 1) throw fail(`parts of ${kinds.join(' and ')} in one layer`);
  const need = (part: AdapterPart): RawTensor => {
    const tensor = parts.get(part);
    if (tensor === undefined) {
      const have = [...parts.keys()].filter((other) => kindParts[kinds[0]!].includes(other));
      throw fail(
        `${have.map((other) => partSuffix[other]).join(', ')} without ${partSuffix[part]}; truncated or hand-made file?`,
      );
    }
    return tensor;
  };
  const pair = (a: AdapterPart, b: AdapterPart, core: AdapterPart): PairFactor => ({
    a: need(a),
    b: need(b),
    core: parts.get(core) ?? null,
  });
  const factor = (
    full: AdapterPart,
    a: AdapterPart,
    b: AdapterPart,
    core: AdapterPart,
  ): PairFactor | FullFactor => {
    const whole = parts.get(full);
    if (whole === undefined) return pair(a, b, core);
    if (parts.has(a) || parts.has(b)) throw fail(`${partSuffix[full]} both whole and decomposed`);
    return { full: whole };
  };
  switch (kinds[0]!) {
    case 'lora':
      return { kind: 'lora', up: need('up'), down: need('down'), mid: parts.get('mid') ?? null };
    case 'loha':
      return { kind: 'loha', w1: pair('w1a', 'w1b', 't1'), w2: pair('w2a', 'w2b', 't2') };
    case 'lokr':
      return {
        kind: 'lokr',
        w1: factor('k1', 'k1a', 'k1b', 'k1t'),
        w2: factor('k2', 'k2a', 'k2b', 'k2t'),
      };
    case 'ia3':
      return { kind: 'ia3', weight: need('ia3'), onInput: readSwitch(need('onInput'), fail) };
    case 'diff':
      return { kind: 'diff', diff: need('diff') };
  }
}

/** Name and shape of a tensor, for messages. */
export const shown = ({ name, shape }: RawTensor): string => `${name} [${shape.join(', ')}]`;

/** r, and the check that all factors agree on it. `null` where nothing is decomposed. */
export function rankOf(weights: LayerWeights, axes: readonly number[], fail: Fail): number | null {
  switch (weights.kind) {
    case 'lora': {
      const { up, down, mid } = weights;
      const rank = down.shape[0];
      if (rank === undefined || !axes.includes(down.shape.length)) {
        throw fail(`expected a down factor [rank, inputs, …], got ${shown(down)}`);
      }
      const flat = axes.includes(up.shape.length) && up.shape.slice(2).every((size) => size === 1);
      if (!flat || up.shape[1] !== (mid === null ? rank : mid.shape[0])) {
        throw fail(`expected up [outputs, ${rank}] to fit ${shown(down)}, got ${shown(up)}`);
      }
      if (
        mid !== null &&
        (mid.shape.length < 3 || !axes.includes(mid.shape.length) || mid.shape[1] !== rank)
      ) {
        throw fail(`expected lora_mid [${up.shape[1]}, ${rank}, height, width], got ${shown(mid)}`);
      }
      return rank;
    }
    case 'loha':
      return pairRank(weights.w1, fail) === pairRank(weights.w2, fail)
        ? pairRank(weights.w1, fail)
        : failing(
            fail(
              `the two products have ranks ${pairRank(weights.w1, fail)} and ${pairRank(weights.w2, fail)}`,
            ),
          );
    case 'lokr': {
      const { w1, w2 } = weights;
      for (const factor of [w1, w2]) {
        if ('full' in factor) requireAxes(factor.full, axes, fail);
        else pairRank(factor, fail);
      }
      // LyCORIS divides by the rank of the factor that is decomposed; both have the same where both are.
      if (!('full' in w2)) return pairRank(w2, fail);
      return 'full' in w1 ? null : pairRank(w1, fail);
    }
    case 'diff':
      requireAxes(weights.diff, axes, fail);
      return null;
    default:
      return null;
  }
}

/** A whole matrix, or a kernel. */
function requireAxes(tensor: RawTensor, axes: readonly number[], fail: Fail): void {
  if (!axes.includes(tensor.shape.length)) {
    throw fail(`expected [outputs, inputs] or [outputs, inputs, height, width], got ${shown(tensor)}`);
  }
}

function failing(error: FormatError): never {
  throw error;
}

function pairRank({ a, b, core }: PairFactor, fail: Fail): number {
  if (a.shape.length !== 2 || b.shape.length !== 2)
    throw fail(`expected matrices, got ${shown(a)}, ${shown(b)}`);
  const [rank, other] = core === null ? [a.shape[1]!, b.shape[0]!] : [a.shape[0]!, b.shape[0]!];
  if (core === null && rank !== other) throw fail(`${shown(a)} does not fit ${shown(b)}`);
  if (core !== null && (core.shape.length !== 4 || core.shape[0] !== rank || core.shape[1] !== other)) {
    throw fail(`expected a core [${rank}, ${other}, height, width], got ${shown(core)}`);
  }
  return other;
}

/** The kernel where the tensors' own axes tell it. */
export function kernelOfWeights(weights: LayerWeights): Kernel | null {
  const ofAxes = (shape: readonly number[]): Kernel | null => (shape.length > 2 ? shape.slice(2) : null);
  switch (weights.kind) {
    case 'lora':
      return ofAxes((weights.mid ?? weights.down).shape);
    case 'loha':
      return weights.w1.core === null ? null : ofAxes(weights.w1.core.shape);
    case 'lokr':
      return 'full' in weights.w2
        ? ofAxes(weights.w2.full.shape)
        : weights.w2.core === null
          ? null
          : ofAxes(weights.w2.core.shape);
    case 'diff':
      return ofAxes(weights.diff.shape);
    case 'weight':
      return ofAxes(weights.weight.shape);
    case 'ia3':
      return null;
  }
}

function readSwitch(tensor: RawTensor, fail: Fail): boolean {
  if (elementCount(tensor.shape) !== 1) throw fail(`expected one number, got ${shown(tensor)}`);
  return readFloat64(tensor)[0] !== 0;
}
