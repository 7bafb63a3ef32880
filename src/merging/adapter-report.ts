/** An adapter by block: how many layers, which ranks and alphas, and how large its changes are. */
import type { Adapter } from '../adapters/adapter.ts';
import { type BaseWeights, needsBase } from '../adapters/delta.ts';
import { type AdapterModule, type Architecture, componentsOf } from '../models/families/adapter-layers.ts';
import { familyNamed } from '../models/families/families.ts';
import { readsPrompt } from '../models/families/family.ts';
import { Pace } from '../pace.ts';
import { blockOf } from './block-weights.ts';
import { squaredNormSteps } from './layer-norm.ts';

export interface BlockReport {
  /**
   * `text_encoder`, `text_encoder_2`, `IN01`, `MID`, `OUT11`; of blocks without such names their kind, `double_blocks`; `other`
   * for layers outside of blocks.
   */
  readonly block: string;
  readonly layers: number;
  /** Distinct ranks, ascending. Layers without factors of their own count none. */
  readonly ranks: readonly number[];
  /** Distinct loraAlpha, ascending: scale · rank. */
  readonly loraAlphas: readonly number[];
  /** √Σ‖ΔW‖² over its layers. */
  readonly norm: number;
  /** Layers whose change needs the base model and is not in `norm`. */
  readonly unmeasured: number;
}

export interface AdapterReport {
  readonly scheme: Adapter['scheme'];
  readonly architecture: Adapter['architecture'];
  /** Number of layers by kind: lora, loha, lokr, ia3, diff, weight. */
  readonly kinds: Readonly<Record<string, number>>;
  readonly blocks: readonly BlockReport[];
  readonly words: readonly string[];
  /** Entries that cannot be used, and why. */
  readonly unusable: Adapter['unusable'];
}

/** What a layer is counted under: its network, its block, or the kind of its block where the blocks have no names. */
function placeOf(family: Architecture, layer: AdapterModule): string {
  const block = blockOf(family, layer);
  if (layer.own === undefined) return readsPrompt(layer.component) ? layer.component : (block ?? 'other');
  if (block !== null) return block;
  const pattern = layer.component === 'encoder' ? /^([^_]+)_/ : /^(.+?)_\d+(?:_|$)/;
  return pattern.exec(layer.layerName)?.[1] ?? 'other';
}

/** Place of a name in the report. */
function placeOrder(family: Architecture): (name: string) => number {
  const { adapters, blockNames } = familyNamed(family);
  if (adapters === null) {
    const names = [...blockNames.values()].flat();
    return (name) => (names.includes(name) ? names.indexOf(name) : name === 'other' ? 2000 : 1000);
  }
  return (name) => {
    const component = componentsOf(family).indexOf(name as 'unet');
    if (component >= 0) return component;
    const match = /^(IN|OUT)(\d+)$/.exec(name);
    if (match !== null) return 10 + (match[1] === 'OUT' ? 100 : 0) + Number(match[2]);
    return name === 'MID' ? 100 : 1000;
  };
}

/**
 * Read and measure every layer, none of them written out.
 * @param signal stops between two layers by throwing its reason
 * @throws {FormatError} if a number is not finite, naming the tensor; {ShapeError} on factors that do not fit
 */
export async function describeAdapter(
  adapter: Adapter,
  base?: BaseWeights,
  signal?: AbortSignal,
): Promise<AdapterReport> {
  const kinds: Record<string, number> = {};
  const blocks = new Map<
    string,
    { layers: number; ranks: Set<number>; alphas: Set<number>; squares: number; unmeasured: number }
  >();
  const pace = new Pace(signal);
  for (const layer of adapter.layers.values()) {
    await pace.turn();
    kinds[layer.kind] = (kinds[layer.kind] ?? 0) + 1;
    const name = placeOf(adapter.architecture, layer);
    const block = blocks.get(name) ?? {
      layers: 0,
      ranks: new Set(),
      alphas: new Set(),
      squares: 0,
      unmeasured: 0,
    };
    blocks.set(name, block);
    block.layers++;
    if (layer.rank !== null) {
      block.ranks.add(layer.rank);
      block.alphas.add(Math.fround(layer.scale * layer.rank));
    }
    const weight = needsBase(layer) ? base?.(layer) : undefined;
    if (needsBase(layer) && weight === undefined) {
      block.unmeasured++;
      continue;
    }
    block.squares += await pace.run(squaredNormSteps(layer, weight));
  }
  const ascending = (values: ReadonlySet<number>): number[] => [...values].sort((a, b) => a - b);
  const order = placeOrder(adapter.architecture);
  return {
    scheme: adapter.scheme,
    architecture: adapter.architecture,
    kinds,
    blocks: [...blocks]
      .sort(([a], [b]) => order(a) - order(b))
      .map(([block, { layers, ranks, alphas, squares, unmeasured }]) => ({
        block,
        layers,
        ranks: ascending(ranks),
        loraAlphas: ascending(alphas),
        norm: Math.sqrt(squares),
        unmeasured,
      })),
    words: adapter.words.map(({ word }) => word),
    unusable: adapter.unusable,
  };
}
