/** What a weight file or model folder holds, as plain data. Reads headers, and the factors' alphas; no weights. */
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { FormatError, MismatchError } from '../errors.ts';
import { hashFile } from '../formats/file-hash.ts';
import { elementCount, type RawTensor } from '../formats/raw-tensor.ts';
import { openTensorFile } from '../formats/tensor-file.ts';
import { openCheckpoint } from '../models/checkpoint.ts';
import { foreignArchitecture } from '../models/keys/architecture.ts';
import type { Concept } from './concept.ts';
import { loadConcept } from './concept-file.ts';

export type InspectionKind = 'concept' | 'lora' | 'checkpoint' | 'model-folder' | 'tensors';

export interface Inspection {
  /** Absolute. */
  readonly path: string;
  readonly kind: InspectionKind;
  /** In words: `ED-LoRA concept`, `LoRA (kohya names)`, `SD 1.x checkpoint (single file)` … */
  readonly description: string;
  /** `safetensors`, `torch-zip`, `torch-legacy`, `sharded`, or `folder`. */
  readonly format: string;
  readonly sizeBytes: number;
  readonly tensorCount: number;
  readonly parameterCount: number;
  /** Number of tensors per dtype. */
  readonly dtypes: Readonly<Record<string, number>>;
  /** Words of a concept with the shape of their embeddings. */
  readonly tokens: readonly { readonly word: string; readonly shape: readonly number[] }[];
  /** Adapted layers per network and rank; null if the file is no LoRA. */
  readonly layers: Readonly<Record<'unet' | 'text_encoder', Readonly<Record<string, number>>>> | null;
  readonly metadata: Readonly<Record<string, string>>;
  /** Of a file, if asked for. */
  readonly sha256: string | null;
  /** Why a file is only listed as tensors, for example. */
  readonly notes: readonly string[];
}

/**
 * Inspect a file, a diffusers folder or a PEFT folder.
 * @param options.hash also compute the sha256 of a file
 * @throws {FormatError} if it is missing, unsafe or damaged
 */
export async function inspect(location: string, { hash = false } = {}): Promise<Inspection> {
  const absolute = path.resolve(location);
  const info = statSync(absolute, { throwIfNoEntry: false });
  if (info?.isDirectory()) return inspectFolder(absolute);
  const file = await openTensorFile(location);
  const tensors = [...file.tensors.values()];
  const base = {
    path: absolute,
    format: file.format,
    sizeBytes: file.sizeBytes,
    ...counts(tensors),
    tokens: [],
    layers: null,
    metadata: Object.fromEntries(file.metadata),
    sha256: hash ? await hashFile(absolute) : null,
    notes: [],
  };
  const foreign = foreignArchitecture(tensors);
  const isCheckpoint = tensors.some(({ name }) => name.includes('model.diffusion_model.'));
  if (isCheckpoint) {
    return { ...base, kind: 'checkpoint', description: `${foreign ?? 'SD 1.x'} checkpoint (single file)` };
  }
  try {
    return { ...base, ...describeConcept(await loadConcept(location)) };
  } catch (error) {
    if (!(error instanceof FormatError || error instanceof MismatchError)) throw error;
    const description = foreign === null ? 'tensors of no known layout' : `weights for ${foreign}`;
    return { ...base, kind: 'tensors', description, notes: [error.message] };
  }
}

async function inspectFolder(folder: string): Promise<Inspection> {
  const isModel =
    existsSync(path.join(folder, 'model_index.json')) || existsSync(path.join(folder, 'unet', 'config.json'));
  const common = { path: folder, format: 'folder', sha256: null, notes: [] };
  if (!isModel) {
    const concept = await loadConcept(folder);
    const tensors = [...concept.layers.values()].flatMap(({ up, down }) => [up, down]);
    return {
      ...common,
      sizeBytes: byteCount(tensors),
      ...counts(tensors),
      metadata: Object.fromEntries(concept.metadata),
      ...describeConcept(concept),
    };
  }
  const model = await openCheckpoint(folder);
  const files = [model.textEncoder.file, model.unet.file, (await model.vae()).file];
  return {
    ...common,
    kind: 'model-folder',
    description: 'SD 1.x model (diffusers folder)',
    sizeBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
    ...counts(files.flatMap((file) => [...file.tensors.values()])),
    tokens: model.tokenizer.addedTokens
      .filter(({ word }) => !/^<\|(start|end)oftext\|>$/.test(word))
      .map(({ word }) => ({ word, shape: [model.textEncoder.config.hiddenSize] })),
    layers: null,
    metadata: Object.fromEntries(model.unet.file.metadata),
  };
}

function describeConcept(concept: Concept): Pick<Inspection, 'kind' | 'description' | 'tokens' | 'layers'> {
  const layers: Record<'unet' | 'text_encoder', Record<string, number>> = { unet: {}, text_encoder: {} };
  for (const { component, rank } of concept.layers.values()) {
    layers[component][rank] = (layers[component][rank] ?? 0) + 1;
  }
  const isConcept = concept.format === 'ed-lora';
  return {
    kind: isConcept ? 'concept' : 'lora',
    description: isConcept ? 'ED-LoRA concept' : `LoRA (${concept.format} names)`,
    tokens: concept.tokens.map(({ word, embedding }) => ({ word, shape: embedding.shape })),
    layers,
  };
}

const byteCount = (tensors: readonly RawTensor[]): number =>
  tensors.reduce((sum, tensor) => sum + tensor.storage.sizeBytes, 0);

function counts(
  tensors: readonly RawTensor[],
): Pick<Inspection, 'tensorCount' | 'parameterCount' | 'dtypes'> {
  const dtypes: Record<string, number> = {};
  for (const { dtype } of tensors) dtypes[dtype] = (dtypes[dtype] ?? 0) + 1;
  return {
    tensorCount: tensors.length,
    parameterCount: tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
    dtypes,
  };
}
