/** The content of an evaluation's report.json: written, and read again to be compared. */

import { z } from 'zod';
import { FormatError } from '../errors.ts';
import { readJsonFile } from '../formats/json-file.ts';
import { safeParse } from '../formats/safe-parse.ts';
import type { Evaluation } from './evaluate.ts';

const MAX_BYTES = 64 << 20;

const interval = z.object({ mean: z.number(), low: z.number(), high: z.number() });
const alignments = z.object({ image: interval, text: interval });

const sample = z.object({
  prompt: z.number().int().nonnegative(),
  seed: z.number().int(),
  file: z.string(),
  imageAlignment: z.number(),
  textAlignment: z.number(),
});

const variant = alignments.extend({
  name: z.string(),
  words: z.string(),
  /** What the model is made of, in a phrase. */
  description: z.string(),
  samples: z.array(sample),
  difference: alignments.nullable(),
});

const styleMix = z.object({
  a: z.string(),
  b: z.string(),
  order: z.array(z.number().int()),
  points: z.array(
    z.object({ switched: z.number().int(), toA: z.number(), toB: z.number(), files: z.array(z.string()) }),
  ),
});

const density = z.object({
  encoder: z.string().default('text_encoder'),
  bandwidth: z.number(),
  words: z.number().int(),
  vocabulary: z.object({ low: z.number(), median: z.number(), high: z.number() }),
  embeddings: z.array(z.object({ concept: z.string(), word: z.string(), logDensity: z.array(z.number()) })),
});

const attention = z.object({
  prompt: z.string(),
  seed: z.number().int(),
  picture: z.string(),
  maps: z.array(
    z.object({
      word: z.string(),
      height: z.number().int(),
      width: z.number().int(),
      layers: z.number().int(),
      /** Largest and mean share of attention. */
      largest: z.number(),
      mean: z.number(),
      file: z.string(),
    }),
  ),
});

const reportSchema = z.object({
  tool: z.literal('edlora'),
  kind: z.literal('evaluation'),
  version: z.string(),
  base: z.string(),
  clip: z.string(),
  concept: z.string(),
  prompts: z.array(z.string()),
  /** Reference pictures, as paths relative to the report's folder. */
  references: z.array(z.string()),
  settings: z.object({
    samples: z.number().int(),
    seed: z.number().int(),
    steps: z.number().int(),
    guidanceScale: z.number(),
    sampler: z.string(),
    width: z.number().int(),
    height: z.number().int(),
  }),
  variants: z.array(variant),
  referenceAlignment: z.number().nullable(),
  scoring: z.object({ pictures: z.number().int(), elapsedMs: z.number() }),
  elapsedMs: z.number(),
  styleMix: styleMix.nullable(),
  /** One for each text encoder; earlier versions wrote that of the first alone. */
  density: z.union([z.array(density), density.transform((only) => [only])]).nullable(),
  attention: attention.nullable(),
});

/** See the schema: plain data, files relative to the report's folder. */
export type EvaluationReport = z.output<typeof reportSchema>;
export type StyleMixReport = z.output<typeof styleMix>;
export type DensityReport = z.output<typeof density>;
export type AttentionReport = z.output<typeof attention>;

/** What a report says besides the scores. */
export interface ReportContext
  extends Pick<
    EvaluationReport,
    'version' | 'base' | 'clip' | 'concept' | 'references' | 'styleMix' | 'density' | 'attention'
  > {
  readonly settings: Omit<EvaluationReport['settings'], 'samples' | 'seed'>;
  /** What each variant is made of, by name. */
  readonly descriptions: ReadonlyMap<string, string>;
}

/** Scores and circumstances as one document. */
export function evaluationReport(
  evaluation: Evaluation,
  { descriptions, settings, ...context }: ReportContext,
): EvaluationReport {
  return {
    tool: 'edlora',
    kind: 'evaluation',
    ...context,
    prompts: [...evaluation.prompts],
    settings: { ...settings, samples: evaluation.samples, seed: evaluation.seed },
    variants: evaluation.variants.map((scores) => ({
      ...scores,
      samples: [...scores.samples],
      description: descriptions.get(scores.name) ?? '',
    })),
    referenceAlignment: evaluation.referenceAlignment,
    scoring: evaluation.scoring,
    elapsedMs: evaluation.elapsedMs,
  };
}

/**
 * Read a report.json.
 * @throws {FormatError} if it is missing, no report of an evaluation, or damaged (naming the field)
 */
export async function readEvaluationReport(file: string): Promise<EvaluationReport> {
  const json = await readJsonFile(file, MAX_BYTES, "an evaluation's report.json");
  const result = safeParse(reportSchema, json);
  if (result.success) return result.data;
  const { path, message } = result.error.issues[0]!;
  throw new FormatError(
    file,
    `expected an evaluation's report.json; ${path.join('.') || 'top level'}: ${message}`,
    { cause: result.error },
  );
}
