/**
 * A model's weight files as they lie on disk, every tensor with the layer that it belongs to: for tools that rewrite or
 * compare whole checkpoints. No configuration or tokenizer is needed, and SDXL folders work as SD 1.x ones.
 */

import type { AdapterComponent, AdapterModule, Architecture } from '../adapters/adapter.ts';
import type { BaseWeights } from '../adapters/delta.ts';
import { FormatError, MismatchError } from '../errors.ts';
import { openShardedOrSingle, openTensorFile } from '../formats/open-tensor-file.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { exists, infoOf } from '../io/file-info.ts';
import * as path from '../io/platform/paths.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import {
  ADAPTER_FAMILIES,
  adapterFamily,
  DEFAULT_FAMILY,
  hasAdapters,
  titlesOf,
} from '../models/families/families.ts';
import { familyOf } from '../models/families/recognise.ts';
import { withTextModel } from '../models/keys/module-path.ts';
import { heldParameters, oneName, type StoredName } from '../models/keys/read-names.ts';

/** A layer's weight or bias in a tensor. */
export interface LayerParameter {
  readonly module: AdapterModule;
  readonly param: 'weight' | 'bias';
  /** Its rows of the tensor; all of them, where it holds nothing else. */
  readonly tensor: RawTensor;
  readonly firstRow: number;
  /** Whether its rows are the tensor's columns. */
  readonly transposed: boolean;
}

/** A tensor of a model. */
export interface ModelTensor {
  /** As it is written again: without the `state_dict.` of training checkpoints. */
  readonly name: string;
  readonly tensor: RawTensor;
  /** Of UNet and text encoders; none for everything else, three where queries, keys and values lie in one matrix. */
  readonly layers: readonly LayerParameter[];
}

/** Weights that lie together. */
export interface ModelPart {
  /** `null`: the whole model is this one file. */
  readonly component: AdapterComponent | null;
  readonly file: TensorFile;
  readonly tensors: readonly ModelTensor[];
}

export interface ModelFiles {
  /** Absolute. */
  readonly path: string;
  readonly layout: 'diffusers' | 'single-file';
  readonly architecture: Architecture;
  readonly parts: readonly ModelPart[];
  /** Every weight by `component:layerName`. */
  readonly weights: ReadonlyMap<string, RawTensor>;
  readonly biases: ReadonlyMap<string, RawTensor>;
}

const folders: readonly (readonly [AdapterComponent, readonly string[]])[] = [
  ['unet', ['diffusion_pytorch_model']],
  ['text_encoder', ['model', 'pytorch_model']],
  ['text_encoder_2', ['model', 'pytorch_model']],
];

/**
 * Open a diffusers folder or a single-file checkpoint. Reads headers only.
 * @throws {FormatError} if files are missing or damaged, or it is no checkpoint
 * @throws {MismatchError} if it is of another architecture
 */
export async function openModelFiles(location: string): Promise<ModelFiles> {
  const absolute = path.resolve(location);
  const info = infoOf(absolute);
  if (info === undefined) throw new FormatError(location, 'no such file or folder');
  const parts = info.isDirectory() ? await openFolder(absolute) : null;
  const single = parts === null ? await openTensorFile(absolute) : null;
  const architecture = architectureOf(location, parts ?? [{ file: single! }]);
  const all = parts ?? [singlePart(single!, architecture)];
  const weights = new Map<string, RawTensor>();
  const biases = new Map<string, RawTensor>();
  for (const { tensors } of all) {
    for (const { module, param, tensor } of tensors.flatMap(({ layers }) => layers)) {
      (param === 'weight' ? weights : biases).set(adapterModuleId(module), tensor);
    }
  }
  const layout = parts === null ? 'single-file' : 'diffusers';
  return { path: absolute, layout, architecture, parts: all, weights, biases };
}

/** A model's weights for changes that are defined over them. */
export function baseWeightsOf({ weights }: ModelFiles): BaseWeights {
  return (module) => weights.get(adapterModuleId(module));
}

async function openFolder(folder: string): Promise<ModelPart[]> {
  if (!exists(path.join(folder, 'unet'))) {
    throw new FormatError(folder, 'expected a diffusers folder (with unet/), or a checkpoint file');
  }
  const parts: ModelPart[] = [];
  for (const [component, stems] of folders) {
    const place = path.join(folder, component);
    if (!exists(place)) continue;
    const file = await openShardedOrSingle(place, ...stems);
    const read = component === 'unet' ? oneName((name) => name) : oneName(withTextModel);
    const tensors = [...file.tensors.values()].map((tensor) => ({
      name: tensor.name,
      tensor,
      layers: layersIn(component, tensor, read(tensor.name)),
    }));
    parts.push({ component, file, tensors });
  }
  return parts;
}

/** @param names of the parameters in a tensor */
function layersIn(
  component: AdapterComponent,
  stored: RawTensor,
  names: readonly StoredName[],
): LayerParameter[] {
  return heldParameters(stored, names).flatMap(({ name, ...held }) => {
    const match = /^(.+)\.(weight|bias)$/.exec(name);
    if (match === null) return [];
    const param = match[2] as LayerParameter['param'];
    return [{ module: { component, layerName: match[1]! }, param, ...held }];
  });
}

const statePrefix = 'state_dict.';

function singlePart(file: TensorFile, architecture: Architecture): ModelPart {
  const networks = Object.entries(adapterFamily(architecture).adapters.singleFile);
  const inside = [...file.tensors.values()].filter(({ name }) => name.startsWith(statePrefix));
  const all = inside.length > 0 ? inside : [...file.tensors.values()];
  const tensors = all.map((tensor): ModelTensor => {
    const name = inside.length > 0 ? tensor.name.slice(statePrefix.length) : tensor.name;
    const layers = networks.flatMap(([component, read]) =>
      layersIn(component as AdapterComponent, tensor, read(name)),
    );
    return { name, tensor, layers };
  });
  if (!tensors.some(({ layers }) => layers.some(({ module }) => module.component === 'unet'))) {
    throw new FormatError(
      file.path,
      'expected a whole Stable Diffusion checkpoint (model.diffusion_model.…); is this a LoRA or a single component?',
    );
  }
  return { component: null, file, tensors };
}

function architectureOf(location: string, parts: readonly { readonly file: TensorFile }[]): Architecture {
  const families = parts.map(({ file }) => familyOf(file.tensors.values()));
  const family = families.find((found) => found !== DEFAULT_FAMILY) ?? DEFAULT_FAMILY;
  if (hasAdapters(family)) return family.name;
  throw new MismatchError(`${location}: expected a ${titlesOf(ADAPTER_FAMILIES)} model, got ${family.title}`);
}
