/** Whether a file is what its header says: its own hash, its inputs' hashes, and on demand the whole job once more. */

import { sshsHashes } from '../adapters/metadata.ts';
import { FormatError, UsageError } from '../errors.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import { fuse } from '../fusion/fuse.ts';
import { writeFusion } from '../fusion/output.ts';
import type { FusionRecipe } from '../fusion/recipe.ts';
import { parseFusionRecipe, repeatedRequest } from '../fusion/repeat.ts';
import { exists, infoOf } from '../io/file-info.ts';
import { rename, statSync } from '../io/platform/disk.ts';
import { temporaryFolder } from '../io/platform/machine.ts';
import * as path from '../io/platform/paths.ts';
import { removeTree } from '../io/remove-tree.ts';
import { makeFolder } from '../io/replace-file.ts';
import { forget, removeAbandoned, temporaryBeside } from '../io/temporary-names.ts';
import type { SubjectProgress } from '../progress.ts';
import type { ExecutionRequest } from '../runtime/execution-context.ts';
import { defined } from '../settings.ts';
import { bakeFiles } from './jobs/bake-files.ts';
import { convertFile } from './jobs/convert-file.ts';
import { extractModel } from './jobs/extract-model.ts';
import type { StrengthOptions } from './jobs/inputs.ts';
import { mergeFiles } from './jobs/merge-files.ts';
import { resizeFile } from './jobs/resize-file.ts';
import { type JobKind, recipeKey } from './provenance.ts';
import {
  filesIn,
  parseRecipe,
  type RecordedFile,
  type RecordedFusion,
  type RecordedJob,
} from './recipe-schema.ts';
import { RecordedInputs, type VerifiedInput } from './recorded-inputs.ts';

export type { VerifiedInput } from './recorded-inputs.ts';

export interface VerifyReport {
  /** Absolute path of the file that holds the recipe. */
  readonly file: string;
  /** What made it; `null` if the header does not say. */
  readonly kind: JobKind | 'fusion' | null;
  /** Hash of the tensors as the header states it and as it is; `null` where none is stated. */
  readonly content: { readonly stated: string; readonly actual: string } | null;
  readonly inputs: readonly VerifiedInput[];
  /** Whether repeating the job gave the same tensors; `null` if it was not repeated. */
  readonly rebuilt: boolean | null;
  /** Everything that could be checked is right. */
  readonly ok: boolean;
}

export interface VerifyOptions extends ExecutionRequest {
  /** Folders to look for inputs that have moved. */
  readonly search?: readonly string[];
  /** Repeat the job and compare. Default: for a fusion's folder whose inputs are unchanged; its solve takes seconds. */
  readonly rebuild?: boolean;
  /** Where a repeated fusion looks for statistics, and keeps them. Default `null`: collected anew. */
  readonly cacheFolder?: string | null;
  /** Told what a user should know of that folder. */
  readonly onNote?: (text: string) => void;
  /** Told of each file that is hashed, and of the job that is repeated. */
  readonly onProgress?: (progress: SubjectProgress) => void;
}

/** Places in a result's folder where the header with the recipe may be. */
const carriers = [
  'lora.safetensors',
  'adapter_model.safetensors',
  'unet/adapter_model.safetensors',
  'text_encoder/adapter_model.safetensors',
  'unet/diffusion_pytorch_model.safetensors',
  'pytorch_lora_weights.safetensors',
];

/**
 * Verify a file, or the folder of a result.
 * @throws {FormatError} if it cannot be read, or its recipe is not one
 * @throws {UsageError} if it is to be repeated and has no recipe of a repeatable job, or inputs are missing or changed
 */
export async function verifyFile(
  location: string,
  {
    search = [],
    rebuild,
    cacheFolder = null,
    onNote = () => {},
    onProgress,
    ...execution
  }: VerifyOptions = {},
): Promise<VerifyReport> {
  const { signal } = execution;
  signal?.throwIfAborted();
  const file = carrierOf(location);
  const { metadata, format } = await openTensorFile(file);
  const text = metadata.get(recipeKey);
  const recipe = text === undefined ? null : parseRecipe(file, text);
  const stated =
    metadata.get('sshs_model_hash') ?? metadata.get('modelspec.hash_sha256')?.replace(/^0x/, '') ?? null;
  const recorded = recipe === null ? [] : filesIn(recipe);
  const isFusionFolder = recipe?.kind === 'fusion' && statSync(location).isDirectory();
  const total = 1 + recorded.length + ((rebuild ?? isFusionFolder) ? 1 : 0);
  let done = 0;
  const advance = (subject: string): void => {
    onProgress?.({ done: ++done, total, subject });
  };
  const actual = format === 'safetensors' ? (await sshsHashes(file, signal)).modelHash : null;
  const content = stated === null || actual === null ? null : { stated, actual };
  advance(file);
  const inputs: VerifiedInput[] = [];
  const places = new RecordedInputs(file, search, signal);
  for (const input of recorded) {
    inputs.push(await places.verify(input));
    advance(input.path);
  }
  const intact = inputs.every(({ state }) => state === 'same');
  let rebuilt: boolean | null = null;
  if (rebuild ?? (isFusionFolder && intact)) {
    if (recipe === null) {
      throw new UsageError(`${file}: no recipe in its header; only the hashes can be checked`);
    }
    if (!intact) {
      const bad = inputs.filter(({ state }) => state !== 'same').slice(0, 10);
      const listed = bad.map(({ path: own, state, reason }) =>
        reason === null ? `${own} is ${state}` : `${own} is ${state} (${reason})`,
      );
      throw new UsageError(
        `${file}: cannot be made again: ${listed.join(', ')}; \`search\` names folders to look in`,
      );
    }
    const placeOf = unitPlaces(file, inputs);
    rebuilt = await sameAgain(file, location, signal, (out) =>
      recipe.kind === 'fusion'
        ? repeatFusion(parseFusionRecipe(file, text!), recipe, out, placeOf, {
            cacheFolder,
            onNote,
            ...execution,
          })
        : repeat(file, recipe, out, placeOf, execution),
    );
    advance(recipe.kind);
  }
  const ok = intact && (content === null || content.stated === content.actual) && rebuilt !== false;
  return { file: path.resolve(file), kind: recipe?.kind ?? null, content, inputs, rebuilt, ok };
}

function carrierOf(location: string): string {
  const info = infoOf(location);
  if (info === undefined) throw new FormatError(location, 'no such file or folder');
  if (!info.isDirectory()) return location;
  const found = carriers.map((name) => path.join(location, name)).find((file) => exists(file));
  if (found === undefined)
    throw new FormatError(location, `expected one of ${carriers.join(', ')}, got none`);
  return found;
}

/** A file or folder of a recipe, with the files that belong to it. */
interface Unit {
  readonly path: string;
  readonly files: readonly RecordedFile[];
}

/** Where a recorded file or folder is, told by its verified files: nothing else is opened. */
function unitPlaces(file: string, inputs: readonly VerifiedInput[]): (unit: Unit) => string {
  const key = ({ path: own, sha256 }: { path: string; sha256: string }): string => `${sha256} ${own}`;
  const found = new Map(inputs.map((input) => [key(input), input.found!]));
  const withSlashes = (text: string): string => text.replaceAll('\\', '/');
  return ({ path: own, files }) => {
    const whole = files.find((entry) => entry.path === own);
    if (whole !== undefined) return found.get(key(whole))!;
    for (const entry of files) {
      const place = found.get(key(entry))!;
      if (!withSlashes(entry.path).startsWith(`${withSlashes(own)}/`)) continue;
      const inside = withSlashes(entry.path).slice(withSlashes(own).length);
      if (withSlashes(place).endsWith(inside)) return place.slice(0, place.length - inside.length);
    }
    throw new FormatError(file, `${recipeKey}: none of the files recorded for ${own} lies in it`);
  };
}

/** Repeat a job in a temporary folder and compare the tensors' hash. */
async function sameAgain(
  file: string,
  location: string,
  signal: AbortSignal | undefined,
  make: (out: string) => Promise<void>,
): Promise<boolean> {
  removeAbandoned(temporaryFolder());
  const folder = temporaryBeside(path.join(temporaryFolder(), 'edlora-verify'));
  await makeFolder(folder);
  try {
    const out = path.join(folder, path.basename(path.resolve(location)));
    await make(out);
    const inside = path.relative(path.resolve(location), path.resolve(file));
    const again = await sshsHashes(inside === '' ? out : path.join(out, inside), signal);
    return again.modelHash === (await sshsHashes(file, signal)).modelHash;
  } finally {
    await removeTree(folder);
    forget(folder);
  }
}

/** Fuse again; statistics that are stored spare the networks. A merged LoRA outside its folder is compared as a file. */
async function repeatFusion(
  recipe: FusionRecipe,
  recorded: RecordedFusion,
  out: string,
  placeOf: (unit: Unit) => string,
  settings: ExecutionRequest & Required<Pick<VerifyOptions, 'cacheFolder' | 'onNote'>>,
): Promise<void> {
  const request = await repeatedRequest({
    ...recipe,
    base: { ...recipe.base, path: placeOf(recorded.base) },
    concepts: recipe.concepts.map((concept, i) => ({ ...concept, path: placeOf(recorded.concepts[i]!) })),
  });
  const fusion = await fuse({ ...request, ...settings });
  const isFile = out.endsWith('.safetensors');
  const folder = isFile ? `${out}.fusion` : out;
  const { signal } = settings;
  await writeFusion(fusion, folder, { naming: recipe.naming, signal });
  if (isFile) await rename(path.join(folder, 'lora.safetensors'), out);
}

async function repeat(
  file: string,
  recipe: RecordedJob,
  out: string,
  placeOf: (unit: Unit) => string,
  execution: ExecutionRequest,
): Promise<void> {
  const bases = recipe.inputs.filter(({ settings }) => settings.role === 'base');
  const others = recipe.inputs.filter(({ settings }) => settings.role !== 'base');
  const adapters = others.map((input): StrengthOptions => {
    const { strength = 1, textEncoderStrength = null, blockWeights = null } = input.settings;
    return { path: placeOf(input), strength, textEncoderStrength: textEncoderStrength ?? null, blockWeights };
  });
  const base = bases[0] === undefined ? {} : { base: placeOf(bases[0]) };
  const need = <T>(value: T | undefined, what: string): T => {
    if (value !== undefined) return value;
    throw new FormatError(file, `${recipeKey}: expected ${what} among its inputs, got none`);
  };
  switch (recipe.kind) {
    case 'merge':
      await mergeFiles({ ...defined(recipe.options), ...base, ...execution, inputs: adapters, out });
      return;
    case 'convert': {
      const input = need(adapters[0], 'an adapter').path;
      const { dtype, word, ...options } = recipe.options;
      const chosen = { ...(dtype === null ? {} : { dtype }), ...(word == null ? {} : { word }) };
      await convertFile({ ...options, ...chosen, ...base, ...execution, input, out });
      return;
    }
    case 'resize': {
      const input = need(adapters[0], 'an adapter').path;
      await resizeFile({ ...recipe.options, ...base, ...execution, input, out });
      return;
    }
    case 'extract': {
      const [tuned, before] = [need(adapters[0], 'a model').path, need(adapters[1], 'a second model').path];
      await extractModel({ ...recipe.options, ...execution, tuned, base: before, out });
      return;
    }
    case 'bake': {
      const model = need(bases[0], 'a base');
      const { dtype, drop } = recipe.options;
      const chosen = dtype === null ? {} : { dtype };
      await bakeFiles({ ...chosen, ...execution, drop, base: placeOf(model), inputs: adapters, out });
      return;
    }
  }
}
