/** What a deprojector is: a network that says the hidden state of a position from an embedding and the positions before. */
import type { Value } from '../../graph/value.ts';
import type { ClipLayerConfig } from '../../models/clip/transformer.ts';
import type { NetworkBuilder } from '../../models/network.ts';

/** Sizes of a deprojector: those of the layers of the text encoder whose states it makes. */
export interface DeprojectorShape extends ClipLayerConfig {
  /** Positions before a position that vicinity models see, V. */
  readonly vicinity: number;
}

/** From the position before, [B, 1, D], to the next one; `null` before the first. */
export type NextState = (before: Value | null) => Value;

/**
 * A model. States are counted from the empty prompt's embedding, in and out of the layers; what is returned is before the
 * final norm. Weights are those of the current scope.
 */
export interface DeprojectorModel {
  readonly title: string;
  /** Whether `vicinity` means anything to it. */
  readonly hasVicinity: boolean;
  /**
   * All positions at once, each from the true ones before it: teacher forcing.
   * @param embedding [B, 1, D]
   * @param before    the positions 1 … T − 1, [B, T − 1, D]
   * @returns [B, T, D]
   */
  all(net: NetworkBuilder, shape: DeprojectorShape, embedding: Value, before: Value): Value;
  /** One position after the other, each from those that it made itself. */
  begin(net: NetworkBuilder, shape: DeprojectorShape, embedding: Value): NextState;
}
