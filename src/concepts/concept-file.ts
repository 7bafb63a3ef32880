/** Files and folders to `Concept`: finds the layout by the names inside and hands over to its reader. */
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { refuseUnlikelyNames } from '../adapters/name-limits.ts';
import { adapterConfigName } from '../adapters/schemes/peft.ts';
import { FormatError, MismatchError, shortened } from '../errors.ts';
import { openTensorFile, type TensorFile } from '../formats/tensor-file.ts';
import { keyName } from '../formats/torch-names.ts';
import { isTensor, type TorchValue } from '../formats/torch-value.ts';
import { foreignArchitecture } from '../models/keys/architecture.ts';
import type { ModulePath } from '../models/keys/module-path.ts';
import type { Concept, LoraLayer } from './concept.ts';
import { isDiffusersName, readDiffusers } from './readers/diffusers.ts';
import { isEdLoraName, readEdLora } from './readers/ed-lora.ts';
import { isKohyaName, readKohya } from './readers/kohya.ts';
import { refuseUnmatched } from './readers/lora-layers.ts';
import { isPeftName, readPeft } from './readers/peft.ts';

export interface LoadConceptOptions {
  /** The layers of the base. Needed only for kohya files of bases whose layers SD 1.x does not have. */
  readonly modules?: Iterable<ModulePath>;
}

/**
 * Open a concept: an ED-LoRA file (`.pth` or safetensors), a LoRA file (kohya's, diffusers' or PEFT's names), a PEFT
 * folder, or a folder with `pytorch_lora_weights`. The content decides, not the name. Reads headers and alphas only;
 * `checkFinite` reads the rest.
 * @throws {FormatError} if the file is damaged, of an unknown layout, or has tensors that match no layer (all listed)
 * @throws {MismatchError} if it is for SDXL, SD 2.x, SD 3 or Flux
 */
export async function loadConcept(file: string, options: LoadConceptOptions = {}): Promise<Concept> {
  if (!existsSync(file)) throw new FormatError(file, 'no such file or folder');
  if (!statSync(file).isDirectory()) return readConcept(await openTensorFile(file), options);
  const weightFiles = findWeightFiles(file);
  const concepts: Concept[] = [];
  for (const weightFile of weightFiles) {
    concepts.push(readConcept(await openTensorFile(weightFile), options));
  }
  return concepts.length === 1 ? concepts[0]! : join(path.resolve(file), concepts);
}

/** An opened file as a concept. @throws as `loadConcept` */
export function readConcept(file: TensorFile, { modules }: LoadConceptOptions = {}): Concept {
  refuseUnlikelyNames(file);
  const stray = file.root === null ? [] : strayValues(file.root);
  if (stray.length > 0) {
    const unowned = [...file.tensors.keys()].filter((name) => !layouts.some(({ owns }) => owns(name)));
    refuseUnmatched(file.path, [...stray, ...unowned]);
  }
  const architecture = foreignArchitecture(file.tensors.values());
  if (architecture !== null) {
    throw new MismatchError(
      `${file.path}: expected a concept for Stable Diffusion 1.x, got one for ${architecture}`,
    );
  }
  const { path, metadata } = file;
  const concept: Concept = { path, metadata, ...readerOf(file)(file, modules) };
  if (concept.layers.size === 0 && concept.tokens.length === 0) {
    throw new FormatError(path, 'expected embeddings or LoRA layers, the file holds neither');
  }
  return concept;
}

type Reader = (file: TensorFile, modules?: Iterable<ModulePath>) => Omit<Concept, 'path' | 'metadata'>;

const layouts: readonly { readonly owns: (name: string) => boolean; readonly read: Reader }[] = [
  { owns: isKohyaName, read: readKohya },
  { owns: isPeftName, read: readPeft },
  { owns: isEdLoraName, read: readEdLora },
  { owns: isDiffusersName, read: readDiffusers },
];

/** The layout that owns most names; the reader then refuses the names that it does not know. */
function readerOf(file: TensorFile): Reader {
  const names = [...file.tensors.keys()];
  if (names.length === 0)
    throw new FormatError(file.path, 'expected embeddings or LoRA layers, got no tensors');
  const counts = layouts.map(({ owns }) => names.filter(owns).length);
  const most = Math.max(...counts);
  if (most === 0) refuseUnmatched(file.path, names);
  return layouts[counts.indexOf(most)]!.read;
}

/** Characters of the name of a value that is no tensor, and of one key in it; for messages. */
const STRAY_CHARACTERS = 200;

/** Where a torch file holds things other than dictionaries and tensors. Long names keep beginning and end. */
function strayValues(root: TorchValue): string[] {
  const stray: string[] = [];
  // A list of what is to be looked at in place of recursion: files nest as deep as they like.
  const open: (readonly [name: string, value: TorchValue])[] = [['', root]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [name, value] = next;
    if (value instanceof Map) {
      const inside = [...value].map(([key, item]) => {
        const own = keyName(key, STRAY_CHARACTERS) ?? strayKey(key);
        return [name === '' ? own : shortened(`${name}.${own}`, STRAY_CHARACTERS), item] as const;
      });
      for (const entry of inside.reverse()) open.push(entry);
    } else if (!isTensor(value)) {
      stray.push(
        `${name} (${value === null ? 'None' : Array.isArray(value) ? 'a list' : `a ${typeof value}`})`,
      );
    }
  }
  return stray;
}

function strayKey(key: TorchValue): string {
  return typeof key === 'string' ? shortened(key, STRAY_CHARACTERS) : 'a long key';
}

/** Weight files of a folder: a PEFT adapter, one per network in subfolders, or diffusers' single file. */
function findWeightFiles(folder: string): string[] {
  const firstOf = (...candidates: string[]): string | undefined =>
    candidates.map((name) => path.join(folder, name)).find((file) => existsSync(file));
  const adapters = ['', 'unet', 'text_encoder'].flatMap((part) => {
    if (!existsSync(path.join(folder, part, adapterConfigName))) return [];
    const weights = firstOf(
      path.join(part, 'adapter_model.safetensors'),
      path.join(part, 'adapter_model.bin'),
    );
    if (weights === undefined) {
      throw new FormatError(
        path.join(folder, part),
        `${adapterConfigName} without adapter_model.safetensors`,
      );
    }
    return [weights];
  });
  if (adapters.length > 0) return adapters;
  const diffusers = firstOf('pytorch_lora_weights.safetensors', 'pytorch_lora_weights.bin');
  if (diffusers !== undefined) return [diffusers];
  throw new FormatError(
    folder,
    `expected a concept file, or a folder with ${adapterConfigName} or pytorch_lora_weights.safetensors`,
  );
}

/** Adapters of several networks as one concept. */
function join(folder: string, concepts: readonly Concept[]): Concept {
  const layers = new Map<string, LoraLayer>();
  const metadata = new Map<string, string>();
  for (const concept of concepts) {
    for (const [id, layer] of concept.layers) {
      if (layers.has(id)) throw new FormatError(folder, `${id} is in two of its adapters`, { tensor: id });
      layers.set(id, layer);
    }
    for (const [key, value] of concept.metadata) metadata.set(key, value);
  }
  return { path: folder, format: 'peft', tokens: [], layers, metadata };
}
