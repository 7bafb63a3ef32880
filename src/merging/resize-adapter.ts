/** An adapter with fewer factors per layer. */
import path from 'node:path';
import type { Adapter } from '../concepts/adapter.ts';
import { adapterModuleId } from '../models/keys/sd-modules.ts';
import { encodeLayer, type FactorDType } from './adapter-layer.ts';
import { type BaseWeights, layerDelta, needsBase } from './delta.ts';
import type { OutputAdapter } from './output.ts';
import { checkResizeOptions, type ResizeOptions, resizeDelta } from './resize.ts';

export interface ResizedReport {
  readonly id: string;
  /** Before; the exact rank of layers that were no LoRA. */
  readonly from: number;
  readonly rank: number;
  /** ‖left out‖ / ‖ΔW‖. */
  readonly relativeError: number;
}

/**
 * Resize every layer. Alpha stays in proportion to the rank, so that the scale does not change, as sd-scripts does.
 * @throws {UsageError} if ranks or targets are out of range
 */
export function resizeAdapter(
  adapter: Adapter,
  options: ResizeOptions & { readonly dtype?: FactorDType; readonly base?: BaseWeights },
): { output: OutputAdapter; layers: ResizedReport[] } {
  checkResizeOptions(options);
  const { dtype = 'F32', base } = options;
  const layers = [];
  const reports: ResizedReport[] = [];
  for (const layer of adapter.layers.values()) {
    const delta = layerDelta(layer, needsBase(layer) ? base?.(layer) : undefined);
    const { delta: cut, rank, relativeError } = resizeDelta(delta, layer.kernel !== null, options);
    layers.push({ ...encodeLayer(layer, layer.kernel, cut, dtype, delta.bias), scale: delta.scale });
    reports.push({ id: adapterModuleId(layer), from: delta.up.cols, rank, relativeError });
  }
  const { architecture, words } = adapter;
  return { output: { architecture, layers, words, title: path.parse(adapter.path).name }, layers: reports };
}
