/** An adapter with fewer factors per layer. */

import type { Adapter } from '../adapters/adapter.ts';
import { type BaseWeights, layerDeltaSteps, needsBase } from '../adapters/delta.ts';
import { encodeLayer, type FactorDType } from '../adapters/encode-layer.ts';
import type { OutputAdapter } from '../adapters/write.ts';
import * as path from '../io/platform/paths.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import { multiplySteps } from '../linalg/products.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import { Pace } from '../pace.ts';
import type { SubjectProgress } from '../progress.ts';
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
export async function resizeAdapter(
  adapter: Adapter,
  options: ResizeOptions & {
    readonly dtype?: FactorDType;
    readonly base?: BaseWeights;
    /** Large products; default plain loops. */
    readonly engine?: MatmulEngine;
    /** Called after each layer. */
    readonly onProgress?: (progress: SubjectProgress) => void;
    /** Its reason is thrown once it is aborted. */
    readonly signal?: AbortSignal;
  },
): Promise<{ output: OutputAdapter; layers: ResizedReport[] }> {
  checkResizeOptions(options);
  const { dtype = 'F32', base, onProgress, signal } = options;
  const pace = new Pace(signal);
  const engine: MatmulEngine = options.engine ?? ((a, b) => pace.run(multiplySteps(a, b)));
  const layers = [];
  const reports: ResizedReport[] = [];
  for (const layer of adapter.layers.values()) {
    await pace.turn();
    const delta = await pace.run(layerDeltaSteps(layer, needsBase(layer) ? base?.(layer) : undefined));
    const {
      delta: cut,
      rank,
      relativeError,
    } = await resizeDelta(delta, layer.kernel !== null, options, engine, pace);
    layers.push({ ...encodeLayer(layer, layer.kernel, cut, dtype, delta.bias), scale: delta.scale });
    const id = adapterModuleId(layer);
    reports.push({ id, from: delta.up.cols, rank, relativeError });
    onProgress?.({ done: reports.length, total: adapter.layers.size, subject: id });
  }
  const { architecture, words } = adapter;
  return { output: { architecture, layers, words, title: path.parse(adapter.path).name }, layers: reports };
}
