/** Whether a file is what its header says: its own hash, its inputs' hashes, and on demand the whole job once more. */
import { existsSync, mkdtempSync, statSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import { sshsHashes } from '../concepts/lora-metadata.ts';
import { FormatError, UsageError } from '../errors.ts';
import { hashFile } from '../formats/file-hash.ts';
import { openTensorFile } from '../formats/tensor-file.ts';
import { fuse } from '../fusion/fuse.ts';
import { writeFusion } from '../fusion/output.ts';
import type { Recipe } from '../fusion/recipe.ts';
import { parseFusionRecipe, repeatedRequest } from '../fusion/repeat.ts';
import {
  bakeFiles,
  convertFile,
  extractModel,
  mergeFiles,
  resizeFile,
  type StrengthOptions,
} from './jobs.ts';
import { type JobKind, recipeKey } from './provenance.ts';

export interface VerifiedInput {
  /** As the recipe has it. */
  readonly path: string;
  /** Where it was found; `null` if nowhere. */
  readonly found: string | null;
  readonly sha256: string;
  readonly state: 'same' | 'changed' | 'missing';
}

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

export interface VerifyOptions {
  /** Folders to look for inputs that have moved. */
  readonly search?: readonly string[];
  /** Repeat the job and compare. Default: for a fusion's folder whose inputs are unchanged; its solve takes seconds. */
  readonly rebuild?: boolean;
  /** Where a repeated fusion looks for statistics, and keeps them. Default `null`: collected anew. */
  readonly cacheFolder?: string | null;
}

const recipeFile = z.object({ path: z.string(), sha256: z.string() });
const jobSchema = z.object({
  tool: z.literal('edlora'),
  kind: z.enum(['merge', 'convert', 'resize', 'extract', 'bake']),
  inputs: z.array(
    z.object({
      path: z.string(),
      files: z.array(recipeFile),
      settings: z.record(z.string(), z.unknown()),
    }),
  ),
  options: z.record(z.string(), z.unknown()),
});
const fusionSchema = z.object({
  tool: z.literal('edlora'),
  kind: z.literal('fusion'),
  base: z.object({ files: z.array(recipeFile) }),
  concepts: z.array(z.object({ files: z.array(recipeFile) })),
});
const recipeSchema = z.union([jobSchema, fusionSchema]);

type Job = z.infer<typeof jobSchema>;

/** Places in a result's folder where the header with the recipe may be. */
const carriers = [
  'lora.safetensors',
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
  { search = [], rebuild, cacheFolder = null }: VerifyOptions = {},
): Promise<VerifyReport> {
  const file = carrierOf(location);
  const { metadata, format } = await openTensorFile(file);
  const text = metadata.get(recipeKey);
  const recipe = text === undefined ? null : parseRecipe(file, text);
  const stated =
    metadata.get('sshs_model_hash') ?? metadata.get('modelspec.hash_sha256')?.replace(/^0x/, '') ?? null;
  const actual = format === 'safetensors' ? (await sshsHashes(file)).modelHash : null;
  const content = stated === null || actual === null ? null : { stated, actual };
  const inputs: VerifiedInput[] = [];
  for (const input of recipe === null ? [] : filesIn(recipe)) inputs.push(await verifyInput(input, search));
  const intact = inputs.every(({ state }) => state === 'same');
  let rebuilt: boolean | null = null;
  const isFusionFolder = recipe?.kind === 'fusion' && statSync(location).isDirectory();
  if (rebuild ?? (isFusionFolder && intact)) {
    if (recipe === null) {
      throw new UsageError(`${file}: no recipe in its header; only the hashes can be checked`);
    }
    if (!intact) {
      const bad = inputs.filter(({ state }) => state !== 'same');
      throw new UsageError(
        `${file}: cannot be made again: ${bad.map(({ path: own, state }) => `${own} is ${state}`).join(', ')}`,
      );
    }
    const found = new Map(inputs.map(({ path: own, found: place }) => [own, place!]));
    rebuilt = await sameAgain(file, location, (out) =>
      recipe.kind === 'fusion'
        ? repeatFusion(parseFusionRecipe(file, text!), out, found, cacheFolder)
        : repeat(recipe, out, found),
    );
  }
  const ok = intact && (content === null || content.stated === content.actual) && rebuilt !== false;
  return { file: path.resolve(file), kind: recipe?.kind ?? null, content, inputs, rebuilt, ok };
}

function carrierOf(location: string): string {
  const info = statSync(location, { throwIfNoEntry: false });
  if (info === undefined) throw new FormatError(location, 'no such file or folder');
  if (!info.isDirectory()) return location;
  const found = carriers.map((name) => path.join(location, name)).find((file) => existsSync(file));
  if (found === undefined)
    throw new FormatError(location, `expected one of ${carriers.join(', ')}, got none`);
  return found;
}

function parseRecipe(file: string, text: string): z.infer<typeof recipeSchema> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(file, `${recipeKey}: not valid JSON`, { cause });
  }
  const parsed = recipeSchema.safeParse(value);
  if (!parsed.success)
    throw new FormatError(file, `${recipeKey}: no recipe of edlora: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

function filesIn(recipe: z.infer<typeof recipeSchema>): { path: string; sha256: string }[] {
  return recipe.kind === 'fusion'
    ? [...recipe.base.files, ...recipe.concepts.flatMap(({ files }) => files)]
    : recipe.inputs.flatMap(({ files }) => files);
}

async function verifyInput(
  { path: own, sha256 }: { path: string; sha256: string },
  search: readonly string[],
): Promise<VerifiedInput> {
  const places = [own, ...search.map((folder) => path.join(folder, path.basename(own)))].filter((place) =>
    existsSync(place),
  );
  for (const found of places) {
    if ((await hashFile(found)) === sha256) return { path: own, found, sha256, state: 'same' };
  }
  return { path: own, found: places[0] ?? null, sha256, state: places.length > 0 ? 'changed' : 'missing' };
}

/** Repeat a job in a temporary folder and compare the tensors' hash. */
async function sameAgain(
  file: string,
  location: string,
  make: (out: string) => Promise<void>,
): Promise<boolean> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'edlora-verify-'));
  try {
    const out = path.join(folder, path.basename(path.resolve(location)));
    await make(out);
    const inside = path.relative(path.resolve(location), path.resolve(file));
    const again = await sshsHashes(inside === '' ? out : path.join(out, inside));
    return again.modelHash === (await sshsHashes(file)).modelHash;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Fuse again; statistics that are stored spare the networks. A merged LoRA outside its folder is compared as a file. */
async function repeatFusion(
  recipe: Recipe,
  out: string,
  found: ReadonlyMap<string, string>,
  cacheFolder: string | null,
): Promise<void> {
  const request = await repeatedRequest(recipe, (file) => found.get(file) ?? file);
  const fusion = await fuse({ ...request, cacheFolder });
  const isFile = out.endsWith('.safetensors');
  const folder = isFile ? `${out}.fusion` : out;
  await writeFusion(fusion, folder, { naming: recipe.naming });
  if (isFile) await rename(path.join(folder, 'lora.safetensors'), out);
}

async function repeat(recipe: Job, out: string, found: ReadonlyMap<string, string>): Promise<void> {
  // A single file that has moved is where it was found; folders must be in place.
  const place = (index: number): string => {
    const { path: own } = recipe.inputs[index]!;
    return found.get(own) ?? own;
  };
  const isBase = ({ settings }: Job['inputs'][number]): boolean => settings.role === 'base';
  const adapters: StrengthOptions[] = recipe.inputs.flatMap((input, i) => {
    if (isBase(input)) return [];
    const { strength = 1, textEncoderStrength = null, blockWeights = null } = input.settings;
    return [{ path: place(i), strength, textEncoderStrength, blockWeights } as StrengthOptions];
  });
  const baseIndex = recipe.inputs.findIndex(isBase);
  const { base: _base, renamed: _renamed, word, dtype, ...options } = recipe.options;
  const shared = {
    ...options,
    ...(dtype === null || dtype === undefined ? {} : { dtype }),
    ...(word === null || word === undefined ? {} : { word }),
    ...(baseIndex < 0 ? {} : { base: place(baseIndex) }),
    out,
  };
  // The options were written by the same jobs, which check them again.
  switch (recipe.kind) {
    case 'merge':
      await mergeFiles({ ...shared, inputs: adapters } as Parameters<typeof mergeFiles>[0]);
      return;
    case 'convert':
      await convertFile({ ...shared, input: adapters[0]!.path } as Parameters<typeof convertFile>[0]);
      return;
    case 'resize':
      await resizeFile({ ...shared, input: adapters[0]!.path } as unknown as Parameters<
        typeof resizeFile
      >[0]);
      return;
    case 'extract':
      await extractModel({ ...shared, tuned: place(0), base: place(1) } as unknown as Parameters<
        typeof extractModel
      >[0]);
      return;
    case 'bake':
      await bakeFiles({ ...shared, inputs: adapters } as unknown as Parameters<typeof bakeFiles>[0]);
      return;
  }
}
