/** What a file was made of, in its header: the recipe with the hash of every input, and what those were made of before. */

import type { Adapter } from '../adapters/adapter.ts';
import { BASE_FIELDS, NAME_FIELDS } from '../adapters/family-of-file.ts';
import { hashFiles } from '../formats/file-hash.ts';
import { utf8Length } from '../io/bytes.ts';
import { statSync } from '../io/platform/disk.ts';
import * as path from '../io/platform/paths.ts';
import { recordedFiles } from '../io/recorded-path.ts';
import { layoutOf } from '../models/families/families.ts';
import { toolVersion } from '../package-root.ts';
import { headerBytes, historyEntries, historyOf, MAX_PROVENANCE_BYTES, recipeKey } from './history.ts';

export { recipeKey } from './history.ts';

export interface RecordedFile {
  /** As seen from the result's folder; the name alone for files elsewhere. */
  readonly path: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

export interface RecordedInput {
  /** Of the file or folder, as seen from the result's folder; the name alone for one elsewhere. */
  readonly path: string;
  readonly files: readonly RecordedFile[];
  /** What the job did with it, e.g. strength and block weights. */
  readonly settings: Readonly<Record<string, unknown>>;
}

export type JobKind = 'merge' | 'convert' | 'resize' | 'extract' | 'bake';

export interface MergeProvenance {
  readonly tool: 'edlora';
  readonly kind: JobKind;
  readonly version: string;
  readonly inputs: readonly RecordedInput[];
  /** Every resolved option of the job. */
  readonly options: Readonly<Record<string, unknown>>;
}

/** An input with absolute paths. */
export interface JobInput {
  readonly path: string;
  readonly files: readonly string[];
  readonly settings?: Readonly<Record<string, unknown>>;
}

/**
 * Describe a job; reads every input once to hash it.
 * @param out     the result, from whose folder the inputs are seen
 * @param hashing the hashes by file, where they are already on their way
 * @throws {FormatError} if one cannot be read
 */
export async function describeJob(
  kind: JobKind,
  out: string,
  inputs: readonly JobInput[],
  options: Readonly<Record<string, unknown>>,
  hashing: Promise<ReadonlyMap<string, string>> = hashFiles(inputs.flatMap(({ files }) => files)),
): Promise<MergeProvenance> {
  const hashes = await hashing;
  const folder = path.dirname(path.resolve(out));
  return {
    tool: 'edlora',
    kind,
    version: toolVersion(),
    inputs: inputs.map((input) => {
      const recorded = recordedFiles(input, folder);
      return {
        path: recorded.path,
        files: input.files.map((file, i) => ({
          path: recorded.files[i]!,
          sha256: hashes.get(file)!,
          sizeBytes: statSync(file).size,
        })),
        settings: input.settings ?? {},
      };
    }),
    options,
  };
}

/** Header entries of a file made from several: the recipe, and what its inputs were made of. */
export function mergedMetadata(
  recipe: MergeProvenance,
  adapters: readonly Adapter[],
): Record<string, string> {
  const base = sharedBase(adapters);
  return { ...base, ...provenance(recipe, adapters, utf8Length(JSON.stringify(base))) };
}

/** What all inputs say of their base alike, for families of which nothing else is known. */
function sharedBase(adapters: readonly Adapter[]): Record<string, string> {
  const [first, ...others] = adapters;
  if (first === undefined || layoutOf(first.architecture) !== null) return {};
  return Object.fromEntries(
    [...BASE_FIELDS, ...NAME_FIELDS, 'modelspec.implementation'].flatMap((field) => {
      const value = first.metadata.get(field);
      return value !== undefined && others.every(({ metadata }) => metadata.get(field) === value)
        ? [[field, value]]
        : [];
    }),
  );
}

/** @param taken bytes of the header that the inputs' own entries take */
function provenance(
  recipe: MergeProvenance,
  adapters: readonly Adapter[],
  taken: number,
): Record<string, string> {
  const text = JSON.stringify(recipe);
  const history = historyOf(
    adapters.map((adapter, i) => ({ adapter, sha256: recipe.inputs[i]!.files[0]!.sha256 })),
  );
  const room = MAX_PROVENANCE_BYTES - headerBytes(text) - taken;
  return { [recipeKey]: text, ...historyEntries(history, Math.max(room, MAX_PROVENANCE_BYTES / 10)) };
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
export function inheritedMetadata(recipe: MergeProvenance, adapter: Adapter): Record<string, string> {
  const kept = Object.fromEntries(lastingEntries(adapter).map((key) => [key, adapter.metadata.get(key)!]));
  return { ...kept, ...provenance(recipe, [adapter], utf8Length(JSON.stringify(kept))) };
}
