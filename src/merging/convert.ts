/** One adapter in another scheme. Plain LoRA passes as it is, number for number; other kinds become LoRA where it must be. */

import type { Adapter, AdapterLayer } from '../adapters/adapter.ts';
import { type BaseWeights, denseSteps, layerDeltaSteps, needsBase } from '../adapters/delta.ts';
import { encodeLayer, encodeTensor, type FactorDType, withTensors } from '../adapters/encode-layer.ts';
import { readFinite } from '../adapters/finite.ts';
import { type LayerFormat, schemes } from '../adapters/schemes/index.ts';
import { isPlainLora } from '../adapters/schemes/scheme.ts';
import type { OutputAdapter } from '../adapters/write.ts';
import { UsageError } from '../errors.ts';
import * as path from '../io/platform/paths.ts';
import { scale } from '../linalg/low-rank.ts';
import { truncateWith } from '../linalg/low-rank-async.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import { multiplySteps } from '../linalg/products.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import { Pace } from '../pace.ts';
import type { SubjectProgress } from '../progress.ts';
import { layerContext } from './merge.ts';
import { MERGE_DEFAULTS } from './method.ts';
import { truncateDense } from './range-finder.ts';
import { refuseLargeResult } from './result-size.ts';

export interface ConvertOptions {
  /** Largest rank of layers that are not yet LoRA; `null`: exactly, refusing those that would need the full rank. */
  readonly rank?: number | null;
  /** Convert the factors too; default: as they are (layers that become LoRA: F32). */
  readonly dtype?: FactorDType;
  readonly base?: BaseWeights;
  /** Large products; default plain loops. */
  readonly engine?: MatmulEngine;
  /** Called after each layer. */
  readonly onProgress?: (progress: SubjectProgress) => void;
  /** Its reason is thrown once it is aborted. */
  readonly signal?: AbortSignal;
}

/** A layer that changed its kind. */
export interface ConvertedLayer {
  readonly id: string;
  readonly from: AdapterLayer['kind'] | 'dora' | 'tucker';
  readonly rank: number;
  /** ‖ΔW − its LoRA‖ / ‖ΔW‖ before rounding to the dtype. */
  readonly relativeError: number;
}

export interface Conversion {
  readonly output: OutputAdapter;
  readonly converted: readonly ConvertedLayer[];
}

/**
 * Prepare an adapter for a scheme.
 * @throws {UsageError} if a layer needs a rank to become LoRA and none is given
 * @throws {MismatchError} if a layer needs a base and there is none
 */
export async function convertAdapter(
  adapter: Adapter,
  format: LayerFormat,
  { rank = null, dtype, base, engine: given, onProgress, signal }: ConvertOptions = {},
): Promise<Conversion> {
  if (rank !== null && !(Number.isInteger(rank) && rank >= 1)) {
    throw new UsageError(`rank: expected a whole number of 1 or more, got ${rank}`);
  }
  const isKept = (layer: AdapterLayer): boolean =>
    isPlainLora(layer) ||
    (schemes[format].anyKind && layer.kind !== 'weight') ||
    schemes[format].refuses(layer, adapter.architecture) !== null;
  // Without a rank, layers of full rank are refused one by one, by name.
  const changed = rank === null ? [] : [...adapter.layers.values()].filter((layer) => !isKept(layer));
  refuseLargeResult(
    'convert',
    changed.map((layer) => ({ parts: [layer], added: true, rank })),
    dtype ?? 'F32',
  );
  const pace = new Pace(signal);
  const engine: MatmulEngine = given ?? ((a, b) => pace.run(multiplySteps(a, b)));
  const converted: ConvertedLayer[] = [];
  const layers: AdapterLayer[] = [];
  for (const [id, layer] of adapter.layers) {
    onProgress?.({ done: layers.length + 1, total: adapter.layers.size, subject: id });
    await pace.turn();
    if (isPlainLora(layer) || (schemes[format].anyKind && layer.kind !== 'weight')) {
      layers.push(dtype === undefined ? layer : recoded(layer, dtype));
      continue;
    }
    if (schemes[format].refuses(layer, adapter.architecture) !== null) {
      layers.push(layer);
      continue;
    }
    const done = await asLora(id, layer, rank, dtype ?? 'F32', base, { engine, pace });
    layers.push(done.layer);
    converted.push(done.report);
  }
  const { architecture, words } = adapter;
  return { output: { architecture, layers, words, title: path.parse(adapter.path).name }, converted };
}

/** @throws {UsageError} if the exact rank is the full one and no rank is given */
async function asLora(
  id: string,
  layer: AdapterLayer,
  most: number | null,
  dtype: FactorDType,
  base: BaseWeights | undefined,
  { engine, pace }: { readonly engine: MatmulEngine; readonly pace: Pace },
): Promise<{ layer: AdapterLayer; report: ConvertedLayer }> {
  const delta = await pace.run(layerDeltaSteps(layer, needsBase(layer) ? base?.(layer) : undefined));
  const factors = scale(delta, delta.scale);
  const full = Math.min(factors.up.rows, factors.down.cols);
  const exact = factors.up.cols;
  const from = layer.doraScale !== null ? 'dora' : layer.kind === 'lora' ? 'tucker' : layer.kind;
  if (most === null && exact >= full) {
    throw new UsageError(
      `${id}: this ${from} layer has the full rank ${full}; choose a smaller one with \`rank\`, its error is then stated`,
    );
  }
  const cut =
    most === null || exact <= most
      ? { delta: factors, relativeError: 0 }
      : exact >= full
        ? await truncateDense(
            await pace.run(denseSteps(factors)),
            most,
            layerContext(id, 0, MERGE_DEFAULTS, { engine, pace }),
          )
        : await truncateWith(factors, most, engine, pace);
  const encoded = encodeLayer(layer, layer.kernel, cut.delta, dtype, delta.bias);
  return {
    layer: encoded,
    report: { id, from, rank: encoded.rank!, relativeError: cut.relativeError },
  };
}

/** A layer's tensors, of whatever kind, in another dtype; scale and alpha stay. */
function recoded(layer: AdapterLayer, dtype: FactorDType): AdapterLayer {
  const id = adapterModuleId(layer);
  return withTensors(layer, (tensor) =>
    tensor.dtype === dtype ? tensor : encodeTensor(id, tensor.shape, readFinite(tensor), dtype),
  );
}
