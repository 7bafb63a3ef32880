/** Recipes as they stand in files, checked before anything that they name is looked at or repeated. */

import { z } from 'zod';
import { type LayerFormat, layerFormats } from '../adapters/schemes/index.ts';
import { type WordFormat, wordFormats } from '../adapters/words.ts';
import { FormatError } from '../errors.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { recordedNaming } from '../fusion/former-names.ts';
import { layerChoices } from './extract.ts';
import { recipeKey } from './history.ts';
import { type MergeMethodName, mergeMethodNames } from './methods/index.ts';

/** Files that one recipe names at most; a base in shards and some hundred adapters are far fewer. */
const MAX_FILES = 4096;
/** Characters of a path at most, as operating systems have it. */
const MAX_PATH = 4096;

const recorded = z.string().min(1).max(MAX_PATH);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'expected a sha256');
/** Size is missing in older recipes. */
const file = z.object({ path: recorded, sha256, sizeBytes: z.number().int().min(0).optional() });
const files = z.array(file).max(MAX_FILES);
const rank = z.number().int().min(1);
const dtype = z.enum(['F32', 'F16', 'BF16']);
const layerFormat = z.enum(layerFormats as unknown as [LayerFormat, ...LayerFormat[]]);
const drop = z.boolean().default(false);

const settings = z.object({
  role: z.literal('base').optional(),
  strength: z.number().optional(),
  textEncoderStrength: z.number().nullish(),
  blockWeights: z.string().nullish(),
});

const shared = {
  tool: z.literal('edlora'),
  inputs: z.array(z.object({ path: recorded, files, settings: settings.prefault({}) })).max(MAX_FILES),
};

/** A job over adapters or models; its options are those that repeat it. */
const jobs = z.discriminatedUnion('kind', [
  z.object({
    ...shared,
    kind: z.literal('merge'),
    options: z.object({
      method: z.enum(mergeMethodNames as unknown as [MergeMethodName, ...MergeMethodName[]]),
      rank: rank.nullable(),
      dtype,
      seed: z.number().int(),
      density: z.number().optional(),
      majoritySign: z.enum(['total', 'frequency']).optional(),
      format: layerFormat,
      drop,
    }),
  }),
  z.object({
    ...shared,
    kind: z.literal('convert'),
    options: z.object({
      format: z.union([layerFormat, z.enum(wordFormats as unknown as [WordFormat, ...WordFormat[]])]),
      rank: rank.nullable(),
      dtype: dtype.nullable(),
      word: z.string().nullish(),
      drop,
    }),
  }),
  z.object({
    ...shared,
    kind: z.literal('resize'),
    options: z.object({
      rule: z.union([
        z.object({ kind: z.literal('rank') }),
        z.object({ kind: z.enum(['sv-ratio', 'sv-fro', 'sv-cumulative']), target: z.number() }),
      ]),
      rank,
      convRank: rank,
      format: layerFormat,
      dtype,
      drop,
    }),
  }),
  z.object({
    ...shared,
    kind: z.literal('extract'),
    options: z.object({
      rank,
      convRank: rank,
      layers: z.enum(layerChoices),
      minDifference: z.number().min(0),
      dtype,
      seed: z.number().int(),
      format: layerFormat,
      drop,
    }),
  }),
  z.object({
    ...shared,
    kind: z.literal('bake'),
    options: z.object({ dtype: dtype.nullable(), drop }),
  }),
]);

/** What verifying needs of a fusion's recipe; repeating it reads the whole (fusion/repeat.ts). */
const fusion = z.object({
  tool: z.literal('edlora'),
  kind: z.literal('fusion'),
  base: z.object({ path: recorded, files }),
  concepts: z.array(z.object({ path: recorded, files })).max(MAX_FILES),
  naming: recordedNaming,
});

export type RecordedFile = z.infer<typeof file>;
export type RecordedJob = z.infer<typeof jobs>;
export type RecordedFusion = z.infer<typeof fusion>;

/**
 * A recipe from a header entry.
 * @param where the file that it stands in
 * @throws {FormatError} if it is not JSON, or no recipe of this tool, naming what is wrong
 */
export function parseRecipe(where: string, text: string): RecordedJob | RecordedFusion {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(where, `${recipeKey}: not valid JSON`, { cause });
  }
  const kind = typeof value === 'object' && value !== null && 'kind' in value ? value.kind : null;
  const result = kind === 'fusion' ? safeParse(fusion, value) : safeParse(jobs, value);
  if (result.success) {
    if (filesIn(result.data).length <= MAX_FILES) return result.data;
    throw new FormatError(where, `${recipeKey}: expected at most ${MAX_FILES} files, got more`);
  }
  const issue = result.error.issues[0]!;
  const place = issue.path.map(String).join('.').slice(0, 200);
  throw new FormatError(where, `${recipeKey}: no recipe of edlora: ${place || 'recipe'}: ${issue.message}`);
}

/** Every file that a recipe names. */
export function filesIn(recipe: RecordedJob | RecordedFusion): RecordedFile[] {
  return recipe.kind === 'fusion'
    ? [...recipe.base.files, ...recipe.concepts.flatMap((concept) => concept.files)]
    : recipe.inputs.flatMap((input) => input.files);
}
