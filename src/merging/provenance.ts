/** What a file was made of: the recipe with the hash of every input, and the inputs' own metadata, in its header. */
import path from 'node:path';
import type { Adapter } from '../concepts/adapter.ts';
import { hashFiles } from '../formats/file-hash.ts';
import { toolVersion } from '../package-root.ts';

/** Header entry with the recipe; fusions use it too. */
export const recipeKey = 'edlora.recipe';
/** Header entry with the metadata of every input. */
export const inputsKey = 'edlora.inputs';

export interface RecipeFile {
  /** Absolute path at the time. */
  readonly path: string;
  readonly sha256: string;
}

export interface RecipeInput {
  /** Absolute path of the file or folder. */
  readonly path: string;
  readonly files: readonly RecipeFile[];
  /** What the job did with it, e.g. strength and block weights. */
  readonly settings: Readonly<Record<string, unknown>>;
}

export type JobKind = 'merge' | 'convert' | 'resize' | 'extract' | 'bake';

export interface MergeRecipe {
  readonly tool: 'edlora';
  readonly kind: JobKind;
  readonly version: string;
  readonly inputs: readonly RecipeInput[];
  /** Every resolved option of the job. */
  readonly options: Readonly<Record<string, unknown>>;
}

/**
 * Describe a job; reads every input once to hash it.
 * @param hashing the hashes by file, where they are already on their way
 * @throws {FormatError} if one cannot be read
 */
export async function describeJob(
  kind: JobKind,
  inputs: readonly { path: string; files: readonly string[]; settings?: Readonly<Record<string, unknown>> }[],
  options: Readonly<Record<string, unknown>>,
  hashing: Promise<ReadonlyMap<string, string>> = hashFiles(inputs.flatMap(({ files }) => files)),
): Promise<MergeRecipe> {
  const hashes = await hashing;
  return {
    tool: 'edlora',
    kind,
    version: toolVersion(),
    inputs: inputs.map(({ path: own, files, settings = {} }) => ({
      path: own,
      files: files.map((file) => ({ path: file, sha256: hashes.get(file)! })),
      settings,
    })),
    options,
  };
}

/** Header entries of a file made from several: recipe, and each input's metadata nested under its name. */
export function mergedMetadata(recipe: MergeRecipe, adapters: readonly Adapter[]): Record<string, string> {
  const nested = adapters.map(({ path: own, metadata }, i) => ({
    name: path.parse(own).name,
    sha256: recipe.inputs[i]!.files[0]!.sha256,
    metadata: Object.fromEntries(metadata),
  }));
  return { [recipeKey]: JSON.stringify(recipe), [inputsKey]: JSON.stringify(nested) };
}

/** Header entries that describe one particular file, and are wrong for what is made of it. */
const ownToFile =
  /^(sshs_|modelspec\.hash_sha256$|edlora\.|format$|ss_network_(dim|alpha|module)$|(unet|text_encoder)(:\d+:rank)?$|lora_adapter_metadata$)/;

/** Names of an input's header entries that still hold for what is made of it. */
export function lastingEntries({ metadata }: Adapter): string[] {
  return [...metadata]
    .filter(([key, value]) => !ownToFile.test(key) && value !== '<embed>')
    .map(([key]) => key);
}

/** Header entries of a file made from one: the input's own, as far as they still hold, and the recipe. */
export function inheritedMetadata(recipe: MergeRecipe, adapter: Adapter): Record<string, string> {
  const kept = lastingEntries(adapter).map((key) => [key, adapter.metadata.get(key)!]);
  return { ...Object.fromEntries(kept), ...mergedMetadata(recipe, [adapter]) };
}
