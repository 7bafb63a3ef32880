/**
 * A checkpoint with adapters inside: every weight W₀ + Σ strength · ΔW, tensor by tensor while the file is written. Only
 * the tensor under way is in memory; products of factors and the addition run in the graph runtime.
 */

import type { AdapterLayer } from '../adapters/adapter.ts';
import { layerDeltaSteps } from '../adapters/delta.ts';
import type { FactorDType } from '../adapters/encode-layer.ts';
import { readFinite } from '../adapters/finite.ts';
import type { UnsupportedEntry } from '../adapters/write.ts';
import { MismatchError, UsageError } from '../errors.ts';
import { type DType, dtypeWidth, isFloatDType } from '../formats/dtype.ts';
import { elementCount, type RawTensor, verifyStorages } from '../formats/raw-tensor.ts';
import { layOutSafetensors } from '../formats/safetensors.ts';
import { copyTree } from '../io/copy-folder.ts';
import { readdir } from '../io/platform/disk.ts';
import * as path from '../io/platform/paths.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { writeFolderAtomically } from '../io/replace-folder.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import { familyNamed } from '../models/families/families.ts';
import { Pace } from '../pace.ts';
import type { Progress } from '../progress.ts';
import { type ExecutionRequest, executionContext } from '../runtime/execution-context.ts';
import { commonArchitecture } from './common-family.ts';
import {
  FactorAddition,
  joinFactors,
  type PlacedFactors,
  type ScaledFactors,
  stackFactors,
  transposedFactors,
} from './factor-addition.ts';
import { layerStrength, layersByModule, type MergeInput } from './merge.ts';
import type { ModelFiles, ModelPart, ModelTensor } from './model-files.ts';
import { type BakedWeight, weightBlocks } from './weight-blocks.ts';

export interface BakeOptions extends ExecutionRequest {
  /** Of floating-point weights; default: as the base has them. */
  readonly dtype?: FactorDType;
  /** Further header entries of the weight files. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Called after each tensor, with bytes written so far and in all. */
  readonly onProgress?: (progress: Progress) => void;
  /** Its reason is thrown once it is aborted; nothing is left behind. */
  readonly signal?: AbortSignal;
}

type Change = { readonly layer: AdapterLayer; readonly strength: number };

/** Changes by layer, and those that the model has no place for. */
export function planBake(
  model: ModelFiles,
  inputs: readonly MergeInput[],
): { changes: Map<string, readonly Change[]>; unsupported: UnsupportedEntry[] } {
  const architecture = commonArchitecture(inputs.map(({ adapter }) => adapter));
  // Names and sizes prove the family of most files; one whose layers all fit is none of another.
  if (architecture !== model.architecture && !fits(model, inputs)) {
    throw new MismatchError(
      `${inputs[0]!.adapter.path} does not fit ${model.path}: expected an adapter for ${familyNamed(model.architecture).title}, got one for ${familyNamed(architecture).title}`,
    );
  }
  const changes = new Map<string, readonly Change[]>();
  const unsupported: UnsupportedEntry[] = [];
  for (const [id, parts] of layersByModule(inputs)) {
    const base = model.weights.get(id);
    if (base === undefined) {
      unsupported.push({ name: id, reason: `${path.basename(model.path)} has no such layer` });
      continue;
    }
    for (const { layer } of parts) checkShape(model.path, layer, base);
    const active = parts
      .map(({ layer, input }) => ({ layer, strength: layerStrength(input, layer) }))
      .filter(({ strength }) => strength !== 0);
    if (active.some(({ layer }) => layer.biasDiff !== null) && !model.biases.has(id)) {
      unsupported.push({ name: `${id} (bias)`, reason: 'the layer has no bias' });
    }
    if (active.length > 0) changes.set(id, active);
  }
  for (const { adapter } of inputs) {
    for (const { word } of adapter.words) {
      unsupported.push({
        name: word,
        reason: 'a checkpoint is written without new words; convert them to a file of their own',
      });
    }
  }
  return { changes, unsupported };
}

/** Whether the model has every layer of the adapters, in their sizes. */
function fits(model: ModelFiles, inputs: readonly MergeInput[]): boolean {
  return [...layersByModule(inputs)].every(([id, parts]) => {
    const base = model.weights.get(id);
    return base !== undefined && parts.every(({ layer }) => misfit(layer, base) === null);
  });
}

/** Factors that tell their sizes are held to the base's before any work. @throws {MismatchError} */
function checkShape(model: string, layer: AdapterLayer, base: RawTensor): void {
  const found = misfit(layer, base);
  if (found === null) return;
  throw new MismatchError(
    `${adapterModuleId(layer)}: expected a change of [${found.expected.join(', ')}] for ${model}, got [${found.got.join(', ')}]; trained on another base?`,
  );
}

/** Sizes of a weight and of its change, where they differ. */
function misfit(
  layer: AdapterLayer,
  base: RawTensor,
): { readonly expected: readonly number[]; readonly got: readonly number[] } | null {
  if (layer.kind !== 'lora') return null;
  const inputs = ({ shape }: RawTensor): number => shape.slice(1).reduce((a, b) => a * b, 1);
  const [m, n] = [base.shape[0]!, inputs(base)];
  const own = inputs(
    layer.mid === null
      ? layer.down
      : { ...layer.mid, shape: [1, layer.down.shape[1]!, ...layer.mid.shape.slice(2)] },
  );
  const fit = layer.up.shape[0] === m && own === n;
  return fit ? null : { expected: [m, n], got: [layer.up.shape[0]!, own] };
}

/**
 * Bake. Unsupported entries (see `planBake`) are left out; refuse them first.
 * @param target a .safetensors file for a single-file base, a folder for a diffusers one; appears complete or not at all
 * @throws {UsageError} if the target's kind is not the base's; {NumericalError} if a sum does not fit the dtype
 */
export async function bakeModel(
  model: ModelFiles,
  inputs: readonly MergeInput[],
  target: string,
  options: BakeOptions = {},
): Promise<void> {
  const { changes } = planBake(model, inputs);
  const addition = new FactorAddition(executionContext(options));
  const written = new WrittenBytes(model, options);
  const run = { addition, options, written, pace: new Pace(options.signal) };
  try {
    if (model.layout === 'single-file') {
      if (!target.endsWith('.safetensors')) {
        throw new UsageError(
          `${target}: expected a name ending in .safetensors for a single-file checkpoint`,
        );
      }
      await writePart(path.resolve(target), model.parts[0]!, model, changes, run);
    } else {
      await writeFolder(path.resolve(target), model, changes, run);
    }
  } finally {
    await addition.dispose();
  }
}

/** What all files of one job share. */
interface Run {
  readonly addition: FactorAddition;
  readonly options: BakeOptions;
  readonly written: WrittenBytes;
  readonly pace: Pace;
}

/** Numbers of whatever width there is become those that are asked for; integers stay. */
const writtenDType = ({ dtype }: RawTensor, options: BakeOptions): DType =>
  isFloatDType(dtype) ? (options.dtype ?? dtype) : dtype;

class WrittenBytes {
  readonly #total: number;
  readonly #report: BakeOptions['onProgress'];
  #done = 0;

  constructor(model: ModelFiles, options: BakeOptions) {
    const tensors = model.parts.flatMap((part) => part.tensors.map(({ tensor }) => tensor));
    this.#total = tensors.reduce(
      (sum, tensor) => sum + elementCount(tensor.shape) * dtypeWidth(writtenDType(tensor, options)),
      0,
    );
    this.#report = options.onProgress;
  }

  add(sizeBytes: number): void {
    this.#done += sizeBytes;
    this.#report?.({ done: this.#done, total: this.#total });
  }
}

const weightFile = /\.(safetensors|bin|ckpt|pt|pth|msgpack|onnx|h5)(\.index(\.fp16)?\.json)?$/;

/** A complete copy of the base, with the rewritten weights; appears complete or not at all. */
async function writeFolder(
  folder: string,
  model: ModelFiles,
  changes: ReadonlyMap<string, readonly Change[]>,
  run: Run,
): Promise<void> {
  const rewritten = new Set<string>(model.parts.map(({ component }) => component!));
  await writeFolderAtomically(folder, async (temporary) => {
    for (const entry of await readdir(model.path, { withFileTypes: true })) {
      const from = path.join(model.path, entry.name);
      const skipWeights = rewritten.has(entry.name);
      await copyTree(from, path.join(temporary, entry.name), (file) => {
        run.options.signal?.throwIfAborted();
        return !(skipWeights && weightFile.test(file));
      });
    }
    for (const part of model.parts) {
      const stem = part.component === 'unet' ? 'diffusion_pytorch_model' : 'model';
      const file = path.join(temporary, part.component!, `${stem}.safetensors`);
      await writePart(file, part, model, changes, run);
    }
  });
}

async function writePart(
  file: string,
  part: ModelPart,
  model: ModelFiles,
  changes: ReadonlyMap<string, readonly Change[]>,
  { addition, options, written, pace }: Run,
): Promise<void> {
  const byName = new Map(part.tensors.map((entry) => [entry.name, entry]));
  const outputs = part.tensors.map(({ name, tensor }) => ({
    ...tensor,
    name,
    dtype: writtenDType(tensor, options),
  }));
  const kept = [...part.file.metadata].filter(([key]) => !/^(modelspec\.hash_sha256|edlora\.)/.test(key));
  const header = { format: 'pt', ...Object.fromEntries(kept), ...options.metadata };
  const { head, order } = await pace.run(layOutSafetensors(file, outputs, header));
  await pace.run(verifyStorages(part.tensors.map(({ tensor }) => tensor)));
  const weights = order.map((output): BakedWeight => {
    const entry = byName.get(output.name)!;
    return {
      name: output.name,
      dtype: output.dtype,
      source: entry.tensor,
      change: changeOf(entry, changes, model, pace),
    };
  });
  const onBytes = (sizeBytes: number): void => written.add(sizeBytes);
  const blocks = weightBlocks(weights, addition, onBytes, undefined, pace);
  await writeFileAtomically(file, withHead(head, blocks, pace));
}

async function* withHead(
  head: Uint8Array,
  blocks: AsyncIterable<Uint8Array>,
  pace: Pace,
): AsyncGenerator<Uint8Array> {
  yield head;
  yield* blocks;
  // The last moment: the file gets its name next.
  await pace.turn();
}

/** What is added to a weight or a bias, `null` if nothing is; read from the adapters when its turn comes. */
function changeOf(
  { tensor, layers }: ModelTensor,
  changes: ReadonlyMap<string, readonly Change[]>,
  model: ModelFiles,
  pace: Pace,
): BakedWeight['change'] {
  const changed = layers.flatMap(({ module, param, firstRow, transposed }) => {
    const id = adapterModuleId(module);
    const own = changes.get(id);
    return own === undefined ? [] : [{ id, param, firstRow, transposed, own }];
  });
  if (changed.length === 0) return null;
  const m = tensor.shape[0]!;
  if (changed[0]!.param === 'bias') {
    const terms = changed.flatMap(({ own, firstRow }) =>
      own.flatMap(({ layer: { biasDiff }, strength }) =>
        biasDiff === null ? [] : [{ biasDiff, strength, firstRow }],
      ),
    );
    if (terms.length === 0) return null;
    return {
      kind: 'bias',
      read: () =>
        terms.map(({ biasDiff, strength, firstRow }) => ({
          values: placedAt(firstRow, m, readFinite(biasDiff)),
          strength,
        })),
    };
  }
  return {
    kind: 'factors',
    rows: m,
    read: async () => {
      const parts: PlacedFactors[] = [];
      for (const { id, firstRow, transposed, own } of changed) {
        const base = model.weights.get(id)!;
        const rows = base.shape[0]!;
        const terms: ScaledFactors[] = [];
        for (const { layer, strength } of own) {
          const delta = await pace.run(layerDeltaSteps(layer, base));
          terms.push({ delta, factor: delta.scale * strength });
        }
        const factors = joinFactors(id, rows, elementCount(base.shape) / rows, terms);
        parts.push({ firstRow, factors: transposed ? transposedFactors(factors) : factors });
      }
      return stackFactors(m, parts);
    },
  };
}

/** Values among zeros. */
function placedAt(first: number, length: number, values: Float64Array): Float64Array {
  if (values.length === length) return values;
  const all = new Float64Array(length);
  all.set(values, first);
  return all;
}
