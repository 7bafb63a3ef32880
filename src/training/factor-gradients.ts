/** Factors of trained layers on their way into a graph, and their gradients on the way out. */

import { gradientOutput } from '../graph/gradient-outputs.ts';
import { type ComponentId, type LayerId, within } from '../models/families/layer-table.ts';
import { loraDownInput, loraUpInput } from '../models/network.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** Factors of layers of a base, down [r, n] and up [m, r], by id. */
export type ModelFactors = ReadonlyMap<LayerId, { readonly down: Tensor; readonly up: Tensor }>;

/** Factors of one network as graph inputs. */
export type FactorFeeds = Readonly<Record<string, Tensor>>;

/** Of a layer's factors, down [r, n] and up [m, r]. */
export interface FactorGradients {
  readonly down: Float32Array;
  readonly up: Float32Array;
}

/** The factors of one network as inputs of its graph. */
export function factorFeeds(component: ComponentId, factors: ModelFactors): FactorFeeds {
  return Object.fromEntries(
    [...within(component, factors)].flatMap(([layerName, { down, up }]) => [
      [loraDownInput(layerName), down],
      [loraUpInput(layerName), up],
    ]),
  );
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
