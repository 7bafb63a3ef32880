/** A layer's factors on their way into a graph, and their gradients on the way out. */
import { loraDownInput, loraUpInput } from '../models/network.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { gradientOutput } from './gradient-outputs.ts';

/** Factors of trained layers as graph inputs. */
export type FactorFeeds = Readonly<Record<string, Tensor>>;

/** Of a layer's factors, down [r, n] and up [m, r]. */
export interface FactorGradients {
  readonly down: Float32Array;
  readonly up: Float32Array;
}

/** The gradients of these layers among a graph's outputs. */
export function factorGradients(
  layers: Iterable<string>,
  outputs: Readonly<Record<string, Tensor>>,
): Map<string, FactorGradients> {
  const of = (input: string): Float32Array => outputs[gradientOutput(input)]!.data as Float32Array;
  return new Map(
    [...layers].map((layer) => [layer, { down: of(loraDownInput(layer)), up: of(loraUpInput(layer)) }]),
  );
}
