/** A fusion from its recipe: to make it again, or to add concepts to it. */

import path from 'node:path';
import { z } from 'zod';
import { loadConcept } from '../concepts/concept-file.ts';
import { renameTokens } from '../concepts/prompt.ts';
import { FormatError, UsageError } from '../errors.ts';
import { MAX_CONFIG_BYTES } from '../formats/json-file.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { readTextFile } from '../io/read-small-file.ts';
import { openCheckpoint } from '../models/checkpoint.ts';
import { PREDICTION_TYPES } from '../models/model-schedule.ts';
import { withDefaults } from '../settings.ts';
import { recordedNaming, recordedOptions } from './former-names.ts';
import type { FusionConceptInput } from './fusion-concept.ts';
import { checkFusionOptions, DEFAULTS, type FusionOptions } from './options.ts';
import type { FuseRequest } from './plan.ts';
import type { FusionRecipe } from './recipe.ts';
import { placedRecipe } from './recorded-recipe.ts';

/** Of any list in a recipe: concepts, files, words, captions. Real ones have some dozens. */
const MAX_ENTRIES = 100_000;

const recipeFile = z.object({ path: z.string(), sha256: z.string() });
const list = <T extends z.ZodType>(entry: T) => z.array(entry).max(MAX_ENTRIES);

const recipeSchema = z.object({
  tool: z.literal('edlora'),
  kind: z.literal('fusion'),
  versions: z.object({ edlora: z.string(), node: z.string(), onnxruntime: z.string() }),
  base: z.object({
    path: z.string(),
    prediction: z.enum(PREDICTION_TYPES).optional(),
    files: list(recipeFile),
  }),
  concepts: list(
    z.object({
      path: z.string(),
      name: z.string(),
      words: list(z.string()),
      unetStrength: z.number(),
      textEncoderStrength: z.number(),
      files: list(recipeFile),
    }),
  ),
  options: recordedOptions,
  captions: list(z.string()),
  naming: recordedNaming,
});

/**
 * A recipe from JSON.
 * @param where file that it stands in, for messages
 * @throws {FormatError} if it is not JSON, no recipe of a fusion by this version, or has options that cannot be
 */
export function parseFusionRecipe(where: string, text: string): FusionRecipe {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(where, 'expected a recipe in JSON', { cause });
  }
  const parsed = safeParse(recipeSchema, value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new FormatError(
      where,
      `expected the recipe of a fusion: ${issue!.path.join('.') || 'top level'}: ${issue!.message}`,
    );
  }
  const options = withDefaults(DEFAULTS, parsed.data.options as Partial<FusionOptions>);
  try {
    checkFusionOptions(options);
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    throw new FormatError(where, `options: ${cause.message}`, { cause });
  }
  return { ...parsed.data, options };
}

/** The recipe of a folder that `fuse` wrote. @throws {FormatError} if there is none */
export async function readFusionRecipe(folder: string): Promise<FusionRecipe> {
  const file = path.join(folder, 'recipe.json');
  const text = await readTextFile(file, MAX_CONFIG_BYTES, 'the recipe of a fusion');
  return placedRecipe(parseFusionRecipe(file, text), folder);
}

/**
 * The concepts of a recipe, opened, under the words they had.
 * @param place where a recorded path is now; default: there
 * @throws {FormatError | MismatchError} as `loadConcept`, or if a file has other words than it had
 */
export async function recipeConcepts(
  recipe: FusionRecipe,
  place: (file: string) => string = (file) => file,
): Promise<FusionConceptInput[]> {
  const concepts: FusionConceptInput[] = [];
  for (const { path: recorded, name, words, unetStrength, textEncoderStrength } of recipe.concepts) {
    const concept = await loadConcept(place(recorded));
    if (concept.tokens.length !== words.length) {
      throw new FormatError(
        concept.path,
        `expected ${words.length} words as in the recipe, got ${concept.tokens.length}: the file has changed`,
      );
    }
    const renamed = new Map(
      concept.tokens.flatMap(({ word }, i) => (word === words[i] ? [] : [[word, words[i]!] as const])),
    );
    concepts.push({
      concept: renamed.size === 0 ? concept : renameTokens(concept, renamed),
      name,
      unetStrength,
      textEncoderStrength,
    });
  }
  return concepts;
}

/** The request that gives the same fusion again. @throws as `recipeConcepts`, and as `openCheckpoint` */
export async function repeatedRequest(
  recipe: FusionRecipe,
  place: (file: string) => string = (file) => file,
): Promise<FuseRequest> {
  return {
    base: await openCheckpoint(place(recipe.base.path), { prediction: recipe.base.prediction }),
    concepts: await recipeConcepts(recipe, place),
    options: recipe.options,
    preserveCaptions: recipe.captions,
  };
}
