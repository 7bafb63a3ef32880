/**
 * Factors that count in parts of the picture: y_n = W₀ x_n + Σ_c m_c(n) · B_c A_c x_n. The factors of several changes stand side
 * by side, as a sum's do; between A and B each column of Σ r_c is multiplied by the mask of its change. What works on the text
 * (keys and values of the cross-attentions) is no part of this graph.
 */
import { ShapeError } from '../../errors.ts';
import type { GraphBuilder } from '../../graph/builder.ts';
import { gather } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { int64 } from '../../tensor/tensor.ts';
import type { FactorWeights } from '../network.ts';

/** Which mask the factors of each layer stand under. Only places: the masks are fed. */
export interface FactorPlaces {
  /** Masks C of every level; mask 0 is 1 everywhere. */
  readonly masks: number;
  /** Per layer: the mask of every column of its rank. Layers that are missing count whole. */
  readonly columns: ReadonlyMap<string, readonly number[]>;
}

/** Input [1, N, C]: how much each change counts in each row of a level. */
export const masksInput = (level: number): string => `level.${level}.masks`;

/** Layers that work on neither the picture's rows nor the text: nothing of theirs can be kept to a part of the picture. */
export function hasNoPlace(layerName: string): boolean {
  return layerName.startsWith('time_embedding.') || layerName.startsWith('add_embedding.');
}

/** The weights of a UNet's factors. @param levels size of the latents at each level */
export function placedFactors(
  { masks, columns }: FactorPlaces,
  levels: readonly { readonly height: number; readonly width: number }[],
): FactorWeights {
  const inputs = new Map<number, Value>();
  const picked = new Map<string, Value>();
  const masksOf = (g: GraphBuilder, level: number, rows: number): Value => {
    const value = inputs.get(level) ?? g.input(masksInput(level), 'float32', [1, rows, masks]);
    inputs.set(level, value);
    return value;
  };
  return (g, layerName, rows) => {
    const own = columns.get(layerName) ?? [];
    if (own.every((mask) => mask === 0)) return null;
    const level = levels.findIndex(({ height, width }) => height * width === rows);
    if (level < 0) throw new ShapeError(`${layerName}: expected rows of the picture, got ${rows} others`);
    const key = `${level}:${own.join()}`;
    const weights =
      picked.get(key) ?? gather(g, masksOf(g, level, rows), g.constant(int64([own.length], own)), 2);
    picked.set(key, weights);
    return weights;
  };
}
