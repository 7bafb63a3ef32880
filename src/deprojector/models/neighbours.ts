/** The last states before each position, which vicinity models read; zeros where there are none yet. */
import type { GraphBuilder } from '../../graph/builder.ts';
import { concat, slice } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import type { NetworkBuilder } from '../../models/network.ts';
import { float32 } from '../../tensor/tensor.ts';
import type { DeprojectorModel, DeprojectorShape } from './model.ts';

/**
 * States for each position from the embedding [B, 1, D] and its V neighbours, the nearest first, each [B, N, D]; N is 1 or all
 * positions.
 */
export type FromNeighbours = (
  net: NetworkBuilder,
  shape: DeprojectorShape,
  embedding: Value,
  neighbours: readonly Value[],
) => Value;

/** A model that reads neighbours alone. */
export function vicinityModel(title: string, states: FromNeighbours): DeprojectorModel {
  return {
    title,
    hasVicinity: true,
    all: (net, shape, embedding, before) => {
      const { g } = net;
      const positions = before.shape[1]! + 1;
      const padded = concat(g, [zeros(g, embedding, shape.vicinity), before], 1);
      const neighbours = Array.from({ length: shape.vicinity }, (_, k) => {
        const start = shape.vicinity - 1 - k;
        return slice(g, padded, 1, start, start + positions);
      });
      return states(net, shape, embedding, neighbours);
    },
    begin: (net, shape, embedding) => {
      const none = zeros(net.g, embedding, 1);
      let neighbours = Array<Value>(shape.vicinity).fill(none);
      return (before) => {
        if (before !== null) neighbours = [before, ...neighbours.slice(0, -1)];
        return states(net, shape, embedding, neighbours);
      };
    },
  };
}

/** [B, count, D] */
function zeros(g: GraphBuilder, { shape }: Value, count: number): Value {
  return g.constant(float32([shape[0]!, count, shape[2]!]));
}
