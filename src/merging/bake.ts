/**
 * A checkpoint with adapters inside: every weight W₀ + Σ strength · ΔW, tensor by tensor while the file is written. Only
 * the tensor under way is in memory; products of factors and the addition run in the graph runtime.
 */

import { randomBytes } from 'node:crypto';
import { cp, type FileHandle, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import type { AdapterLayer } from '../concepts/adapter.ts';
import { FormatError, MismatchError, NumericalError, UsageError } from '../errors.ts';
import { writeFileAtomically } from '../formats/atomic-file.ts';
import { dtypeWidth, encodeFloat, isFloatDType, type WritableFloat } from '../formats/dtype.ts';
import {
  type ByteRange,
  byteRangeOf,
  computedTensor,
  elementCount,
  type RawTensor,
  readBytes,
  readFloat32,
  renamed,
} from '../formats/raw-tensor.ts';
import { layOutSafetensors, tensorChunks } from '../formats/safetensors.ts';
import { adapterModuleId } from '../models/keys/sd-modules.ts';
import type { FactorDType } from './adapter-layer.ts';
import { type LayerDelta, layerDelta } from './delta.ts';
import { FactorAddition, type Weight } from './factor-addition.ts';
import { commonArchitecture, layerStrength, layersByModule, type MergeInput } from './merge.ts';
import type { ModelFiles, ModelPart, ModelTensor } from './model-files.ts';
import type { Unheld } from './output.ts';

export interface BakeOptions {
  /** Of floating-point weights; default: as the base has them. */
  readonly dtype?: FactorDType;
  /** Further header entries of the weight files. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Called after each tensor, with bytes written so far and in all. */
  readonly onProgress?: (done: number, total: number) => void;
  /** CPU threads of products. */
  readonly threads?: number;
}

type Change = { readonly layer: AdapterLayer; readonly strength: number };

/** Changes by layer, and those that the model has no place for. */
export function planBake(
  model: ModelFiles,
  inputs: readonly MergeInput[],
): { changes: Map<string, readonly Change[]>; unheld: Unheld[] } {
  const architecture = commonArchitecture(inputs.map(({ adapter }) => adapter));
  if (architecture !== model.architecture) {
    throw new MismatchError(
      `${inputs[0]!.adapter.path} does not fit ${model.path}: one is for ${architecture === 'sdxl' ? 'SDXL' : 'Stable Diffusion 1.x'}, the other is not`,
    );
  }
  const changes = new Map<string, readonly Change[]>();
  const unheld: Unheld[] = [];
  for (const [id, parts] of layersByModule(inputs)) {
    const base = model.weights.get(id);
    if (base === undefined) {
      unheld.push({ name: id, reason: `${path.basename(model.path)} has no such layer` });
      continue;
    }
    for (const { layer } of parts) checkShape(model.path, layer, base);
    const active = parts
      .map(({ layer, input }) => ({ layer, strength: layerStrength(input, layer) }))
      .filter(({ strength }) => strength !== 0);
    if (active.some(({ layer }) => layer.biasDiff !== null) && !model.biases.has(id)) {
      unheld.push({ name: `${id} (bias)`, reason: 'the layer has no bias' });
    }
    if (active.length > 0) changes.set(id, active);
  }
  for (const { adapter } of inputs) {
    for (const { word } of adapter.words) {
      unheld.push({
        name: word,
        reason: 'a checkpoint is written without new words; convert them to a file of their own',
      });
    }
  }
  return { changes, unheld };
}

/** Factors that tell their sizes are held to the base's before any work. @throws {MismatchError} */
function checkShape(model: string, layer: AdapterLayer, base: RawTensor): void {
  if (layer.kind !== 'lora') return;
  const inputs = ({ shape }: RawTensor): number => shape.slice(1).reduce((a, b) => a * b, 1);
  const [m, n] = [base.shape[0]!, inputs(base)];
  const own = inputs(
    layer.mid === null
      ? layer.down
      : { ...layer.mid, shape: [1, layer.down.shape[1]!, ...layer.mid.shape.slice(2)] },
  );
  if (layer.up.shape[0] !== m || own !== n) {
    throw new MismatchError(
      `${adapterModuleId(layer)}: expected a change of [${m}, ${n}] for ${model}, got [${layer.up.shape[0]}, ${own}]; trained on another base?`,
    );
  }
}

/**
 * Bake. Unheld entries (see `planBake`) are left out; refuse them first.
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
  const addition = new FactorAddition(options.threads === undefined ? {} : { threads: options.threads });
  const progress = new Progress(model, options.onProgress);
  try {
    if (model.layout === 'single-file') {
      if (!target.endsWith('.safetensors')) {
        throw new UsageError(
          `${target}: expected a name ending in .safetensors for a single-file checkpoint`,
        );
      }
      await writePart(path.resolve(target), model.parts[0]!, model, changes, addition, options, progress);
    } else {
      await writeFolder(path.resolve(target), model, changes, addition, options, progress);
    }
  } finally {
    await addition.dispose();
  }
}

class Progress {
  readonly #total: number;
  readonly #report: ((done: number, total: number) => void) | undefined;
  #done = 0;

  constructor(model: ModelFiles, report: ((done: number, total: number) => void) | undefined) {
    this.#total = model.parts.reduce((sum, { file }) => sum + file.sizeBytes, 0);
    this.#report = report;
  }

  add(sizeBytes: number): void {
    this.#done += sizeBytes;
    this.#report?.(Math.min(this.#done, this.#total), this.#total);
  }
}

const weightFile = /\.(safetensors|bin|ckpt|pt|pth|msgpack|onnx|h5)(\.index(\.fp16)?\.json)?$/;

/** A complete copy beside the target, renamed when all is there. */
async function writeFolder(
  folder: string,
  model: ModelFiles,
  changes: ReadonlyMap<string, readonly Change[]>,
  addition: FactorAddition,
  options: BakeOptions,
  progress: Progress,
): Promise<void> {
  const temporary = `${folder}.${randomBytes(4).toString('hex')}.tmp`;
  const rewritten = new Set<string>(model.parts.map(({ component }) => component!));
  try {
    await mkdir(temporary, { recursive: true });
    for (const entry of await readdir(model.path, { withFileTypes: true })) {
      const from = path.join(model.path, entry.name);
      const skipWeights = rewritten.has(entry.name);
      await cp(from, path.join(temporary, entry.name), {
        recursive: true,
        dereference: true,
        filter: (source) => !(skipWeights && weightFile.test(source)),
      });
    }
    for (const part of model.parts) {
      const stem = part.component === 'unet' ? 'diffusion_pytorch_model' : 'model';
      const file = path.join(temporary, part.component!, `${stem}.safetensors`);
      await writePart(file, part, model, changes, addition, options, progress);
    }
    await rm(folder, { recursive: true, force: true });
    await rename(temporary, folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

async function writePart(
  file: string,
  part: ModelPart,
  model: ModelFiles,
  changes: ReadonlyMap<string, readonly Change[]>,
  addition: FactorAddition,
  options: BakeOptions,
  progress: Progress,
): Promise<void> {
  const byName = new Map(part.tensors.map((entry) => [entry.name, entry]));
  const outputs = part.tensors.map(({ name, tensor }) => {
    const dtype = isFloatDType(tensor.dtype) ? (options.dtype ?? tensor.dtype) : tensor.dtype;
    return dtype === tensor.dtype
      ? renamed(tensor, name)
      : computedTensor(name, dtype, tensor.shape, () =>
          encodeFloat(readFloat32(tensor), dtype as WritableFloat),
        );
  });
  const kept = [...part.file.metadata].filter(([key]) => !/^(modelspec\.hash_sha256|edlora\.)/.test(key));
  const { head, order } = layOutSafetensors(file, outputs, {
    format: 'pt',
    ...Object.fromEntries(kept),
    ...options.metadata,
  });
  await writeFileAtomically(file, bytesOf(head, order, byName, model, changes, addition, progress));
}

/** Head, then every tensor; the next changed one is computed while the one before is written. */
async function* bytesOf(
  head: Uint8Array,
  order: readonly RawTensor[],
  byName: ReadonlyMap<string, ModelTensor>,
  model: ModelFiles,
  changes: ReadonlyMap<string, readonly Change[]>,
  addition: FactorAddition,
  progress: Progress,
): AsyncGenerator<Uint8Array> {
  yield head;
  const changesOf = (tensor: RawTensor): readonly Change[] | undefined => {
    const module = byName.get(tensor.name)!.module;
    return module === null ? undefined : changes.get(adapterModuleId(module));
  };
  const compute = (index: number): Promise<Uint8Array> | null => {
    const output = order[index];
    const own = output === undefined ? undefined : changesOf(output);
    if (output === undefined || own === undefined) return null;
    const source = byName.get(output.name)!;
    return source.param === 'bias'
      ? Promise.resolve(changedBias(output, source, model, own))
      : changedWeight(output, source, model, own, addition);
  };
  const copier = new Copier();
  let next = compute(0);
  try {
    for (const [i, output] of order.entries()) {
      const bytes = await next;
      next = compute(i + 1);
      // A failure is reported when its turn comes, not as an unhandled one.
      next?.catch(() => undefined);
      const range = bytes === null ? byteRangeOf(output) : null;
      if (bytes !== null) yield bytes;
      else if (range !== null) yield* copier.copy(range);
      else yield* tensorChunks(output);
      progress.add(elementCount(output.shape) * dtypeWidth(byName.get(output.name)!.tensor.dtype));
    }
  } finally {
    await copier.close();
  }
}

async function changedWeight(
  output: RawTensor,
  { tensor }: ModelTensor,
  model: ModelFiles,
  changes: readonly Change[],
  addition: FactorAddition,
): Promise<Uint8Array> {
  const deltas = changes.map(({ layer, strength }) => {
    const delta: LayerDelta = layerDelta(layer, model.weights.get(adapterModuleId(layer)));
    return { delta, factor: delta.scale * strength };
  });
  // The runtime knows halves; bfloat16 is decoded and encoded here.
  const half = output.dtype === 'F16';
  const sum = await addition.add(storedWeight(tensor), half ? 'float16' : 'float32', deltas);
  return encodeChecked(output, sum);
}

/** A weight's numbers: halves as their bits, everything else as float32. */
function storedWeight(tensor: RawTensor): Weight {
  const { shape, dtype } = tensor;
  if (dtype !== 'F16') return { dtype: 'float32', shape, data: readFloat32(tensor) };
  const bytes = readBytes(tensor);
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return {
    dtype: 'float16',
    shape,
    data: new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 2),
  };
}

function changedBias(
  output: RawTensor,
  { tensor }: ModelTensor,
  model: ModelFiles,
  changes: readonly Change[],
): Uint8Array {
  if (changes.every(({ layer }) => layer.biasDiff === null)) return readBytes(output);
  const values = Float32Array.from(readFloat32(tensor));
  for (const { layer, strength } of changes) {
    if (layer.biasDiff === null) continue;
    const { bias } = layerDelta(layer, model.weights.get(adapterModuleId(layer)));
    for (let i = 0; i < values.length; i++) values[i]! += strength * bias![i]!;
  }
  return encodeChecked(output, values);
}

/**
 * Numbers as bytes of the output's dtype: halves are given as their bits where that is F16.
 * @throws {NumericalError} if one is not finite in that dtype
 */
function encodeChecked({ name, dtype }: RawTensor, values: Float32Array | Uint16Array): Uint8Array {
  const bytes =
    values instanceof Uint16Array
      ? new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      : encodeFloat(values, dtype as WritableFloat);
  const wide = dtype === 'F32';
  const codes = wide
    ? new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
    : new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / dtypeWidth(dtype));
  // All bits of the exponent set: infinity, or no number at all.
  const mask = wide ? 0x7f800000 : dtype === 'F16' ? 0x7c00 : 0x7f80;
  let at = 0;
  while (at < codes.length && (codes[at]! & mask) !== mask) at++;
  if (at < codes.length && dtype !== 'F64') {
    throw new NumericalError(
      `expected numbers that ${dtype} can hold, got an infinite one or NaN at index ${at}`,
      {
        layer: name,
      },
    );
  }
  return bytes;
}

/** Bytes copied at a time. */
const COPY_BYTES = 1 << 24;

/** Copies stretches of files through one buffer, which is free again when the next piece is asked for. */
class Copier {
  readonly #buffer = Buffer.allocUnsafeSlow(COPY_BYTES);
  readonly #handles = new Map<string, FileHandle>();

  async *copy({ file, offset, length }: ByteRange): AsyncGenerator<Uint8Array> {
    let handle = this.#handles.get(file);
    if (handle === undefined) {
      handle = await open(file);
      this.#handles.set(file, handle);
    }
    for (let done = 0; done < length; ) {
      const wanted = Math.min(COPY_BYTES, length - done);
      const { bytesRead } = await handle.read(this.#buffer, 0, wanted, offset + done);
      if (bytesRead === 0)
        throw new FormatError(file, `ended at byte ${offset + done}; changed while it was read?`);
      yield this.#buffer.subarray(0, bytesRead);
      done += bytesRead;
    }
  }

  async close(): Promise<void> {
    for (const handle of this.#handles.values()) await handle.close();
  }
}
