/** Which layers of a base are trained, and with factors of which rank and scale. */
import { UsageError } from '../errors.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { isLinear, type Layer, type LayerRole } from '../models/families/layer-table.ts';
import type { Component } from '../models/keys/module-path.ts';

/** `attention`: q, k, v and out. `transformer`: also feed-forward and, in the UNet, proj_in and proj_out. */
export type Where = 'attention' | 'transformer';

const ATTENTION: readonly LayerRole[] = ['self-attention', 'cross-attention', 'context'];
const ROLES: Readonly<Record<Where, ReadonlySet<LayerRole>>> = {
  attention: new Set(ATTENTION),
  transformer: new Set([...ATTENTION, 'feed-forward', 'projection']),
};

export interface TrainedLayer {
  readonly component: Component;
  readonly layerName: string;
  /** ΔW is [m, n]; of a convolution n counts the kernel's area. */
  readonly m: number;
  readonly n: number;
  /** Of the base weight; null for a linear layer. */
  readonly kernel: readonly [number, number] | null;
  readonly rank: number;
  /** ΔW = scale · up · down. */
  readonly scale: number;
}

export interface LayerSelection {
  /** Null: none of the UNet's, none of the text encoders'. */
  readonly unet: Where | null;
  readonly text: Where | null;
  /** Only cross-attention's K and V in the UNet. Default false. */
  readonly keysValuesOnly?: boolean;
  readonly rank: number;
  /** Rank on 3×3 convolutions of the UNet (LoCon); 0 leaves them out. Default 0. */
  readonly convRank?: number;
  /** Other ranks for layers whose name contains the key; 0 leaves a layer out. The last key that matches counts. */
  readonly rankPattern?: Readonly<Record<string, number>>;
  /** Alphas for layers whose name contains the key. */
  readonly alphaPattern?: Readonly<Record<string, number>>;
  readonly loraAlpha: number;
  /** ED-LoRA files use the product undivided; kohya's and PEFT's divide alpha by the rank. */
  readonly alphaOverRank: boolean;
}

/**
 * The layers, UNet first, in declared order.
 * @throws {UsageError} if a pattern matches no layer, or no layer is left
 */
export function trainedLayers(base: Checkpoint, selection: LayerSelection): TrainedLayer[] {
  const { rank, convRank = 0, rankPattern = {}, alphaPattern = {}, loraAlpha, alphaOverRank } = selection;
  const unused = new Set([...Object.keys(rankPattern), ...Object.keys(alphaPattern)]);
  const byPattern = (patterns: Readonly<Record<string, number>>, name: string, otherwise: number): number => {
    const matching = Object.keys(patterns).filter((pattern) => name.includes(pattern));
    for (const pattern of matching) unused.delete(pattern);
    return matching.length === 0 ? otherwise : patterns[matching.at(-1)!]!;
  };
  const layers: TrainedLayer[] = [];
  const add = ({ component, layerName, m, n, kernel }: Layer, usual: number): void => {
    const own = byPattern(rankPattern, layerName, usual);
    const alpha = byPattern(alphaPattern, layerName, loraAlpha);
    if (own === 0) return;
    const scale = alphaOverRank ? alpha / own : alpha;
    layers.push({ component: component as Component, layerName, m, n, kernel, rank: own, scale });
  };
  const { unet, text, keysValuesOnly = false } = selection;
  for (const layer of unet === null ? [] : base.parts.unet.layers.values()) {
    const { role } = layer;
    if (!isLinear(layer)) {
      if (convRank > 0 && (role === 'resnet' || role === 'resampling')) add(layer, convRank);
    } else if (keysValuesOnly ? role === 'context' : ROLES[unet!].has(role)) {
      add(layer, rank);
    }
  }
  for (const { layers: own } of text === null ? [] : base.parts.textEncoders.values()) {
    // The projection of a pooled state is none of a transformer's.
    for (const layer of own.values()) {
      if (layer.role !== 'projection' && ROLES[text!].has(layer.role)) add(layer, rank);
    }
  }
  if (unused.size > 0) {
    throw new UsageError(
      `rank and alpha patterns: no trained layer has ${[...unused].map((pattern) => `"${pattern}"`).join(', ')} in its name`,
    );
  }
  return layers;
}
