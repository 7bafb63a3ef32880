/** From the files of an evaluation to the models that are compared in it. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { type Concept, conceptName } from '../concepts/concept.ts';
import { loadConcept } from '../concepts/concept-file.ts';
import { loadEmbeddings } from '../concepts/embedding-file.ts';
import type { BoundVocabulary } from '../concepts/prompt.ts';
import { MismatchError, UsageError } from '../errors.ts';
import { type Checkpoint, openCheckpoint } from '../models/checkpoint.ts';
import type { PredictionType } from '../models/model-schedule.ts';
import { defaultBase } from '../package-root.ts';
import { openSceneModel, type SceneModel } from '../sampling/model-source.ts';
import type { DescribedVariant } from './evaluation-run.ts';
import { summedParts } from './weight-sum.ts';

export interface EvaluationSources {
  /** Default: the base of the first fusion, or the shipped miniature. */
  readonly base?: string;
  readonly baseConfig?: string;
  /** What the base predicts, in place of what its files say. */
  readonly prediction?: PredictionType;
  /** File of the concept that is judged. */
  readonly concept: string;
  /** What prompts call it. Default: its own words. */
  readonly words?: string;
  /** What the base calls such a thing, e.g. `circle`; without it the base is not drawn. */
  readonly className?: string;
  /** Folders of fusions or fused checkpoints, by the names they get in tables. */
  readonly fused?: ReadonlyMap<string, string>;
  /** Files of further concepts that are added to this one, at each of the strengths. */
  readonly addends?: readonly string[];
  readonly strengths?: readonly number[];
}

export interface EvaluationModels {
  readonly base: Checkpoint;
  readonly concept: Concept;
  /** The concept's name, of its file. */
  readonly name: string;
  /** The concept alone first, then the fusions, the sums, the base. */
  readonly variants: readonly DescribedVariant[];
}

/**
 * Open everything; no network is loaded.
 * @throws {FormatError | MismatchError} for files that are damaged or do not fit the base
 * @throws {UsageError} if the concept has no words, a fusion does not know them, or sums have nothing to add
 */
export async function openEvaluationModels(sources: EvaluationSources): Promise<EvaluationModels> {
  const { className, fused = new Map(), addends = [], strengths = [] } = sources;
  if (strengths.length > 0 && addends.length === 0) {
    throw new UsageError('sums: expected further concept files to add; name them with `addends`');
  }
  if (strengths.length === 0 && addends.length > 0) {
    throw new UsageError('sums: expected strengths for the added concepts; give them with `strengths`');
  }
  const concept = await loadConcept(sources.concept);
  const words = sources.words ?? conceptName(concept);
  if (words === '') {
    throw new UsageError(`${concept.path}: has no words of its own; say how prompts call it with \`words\``);
  }
  const opened = await openFusions(sources, fused);
  const base = await baseOf(sources, opened);
  const variants: DescribedVariant[] = [
    {
      name: 'single',
      description: path.basename(concept.path),
      words,
      parts: await summedParts(base, [concept]),
    },
  ];
  for (const { name, folder, model } of opened) {
    checkWords(folder, words, concept, model.vocabulary);
    const { vocabulary, deltas } = model;
    variants.push({
      name,
      description: `fusion ${path.basename(folder)}`,
      words,
      base: model.base,
      parts: { vocabulary, deltas },
    });
  }
  const others: Concept[] = [];
  for (const file of addends) others.push(await loadConcept(file));
  for (const strength of strengths) {
    variants.push({
      name: `sum ${strength}`,
      description: `${others.length + 1} concepts added, each at strength ${strength}`,
      words,
      parts: await summedParts(base, [concept, ...others], strength),
    });
  }
  if (className !== undefined) {
    variants.push({ name: 'base', description: 'the base model with the class word', words: className });
  }
  return { base, concept, name: path.parse(concept.path).name, variants };
}

/**
 * A file with learned words: a concept, or embeddings alone (Textual Inversion, XTI).
 * @throws {FormatError | MismatchError} the complaint of the concept reader, if it is neither
 */
export async function loadWords(file: string, base: Checkpoint): Promise<Concept> {
  try {
    const concept = await loadConcept(file);
    if (concept.tokens.length > 0) return concept;
    throw new MismatchError(`${file}: expected learned words, got a LoRA without embeddings`);
  } catch (reason) {
    const opened = await loadEmbeddings(file, base).catch(() => null);
    if (opened === null) throw reason;
    return opened.concept;
  }
}

interface OpenedFusion {
  readonly name: string;
  /** As given. */
  readonly folder: string;
  readonly model: SceneModel;
  /** A whole checkpoint, which is its own base. */
  readonly isCheckpoint: boolean;
}

async function openFusions(
  { base, baseConfig, prediction }: EvaluationSources,
  fused: ReadonlyMap<string, string>,
): Promise<OpenedFusion[]> {
  const opened: OpenedFusion[] = [];
  for (const [name, folder] of fused) {
    const isCheckpoint = existsSync(path.join(folder, 'unet'));
    const model = await openSceneModel({
      fused: folder,
      concepts: [],
      loras: [],
      ...(base === undefined || isCheckpoint ? {} : { base }),
      baseConfig,
      prediction,
    });
    opened.push({ name, folder, model, isCheckpoint });
  }
  return opened;
}

async function baseOf(
  { base, baseConfig, prediction }: EvaluationSources,
  opened: readonly OpenedFusion[],
): Promise<Checkpoint> {
  const fusion = opened.find(({ isCheckpoint }) => !isCheckpoint);
  if (base === undefined && fusion !== undefined) return fusion.model.base;
  return openCheckpoint(base ?? defaultBase(), { configFolder: baseConfig, prediction });
}

function checkWords(
  folder: string,
  words: string,
  concept: Concept,
  { tokenizer, tokens }: BoundVocabulary,
): void {
  const known = new Set([...tokens, ...tokenizer.addedTokens].map(({ word }) => word.toLowerCase()));
  const missing = concept.tokens
    .map(({ word }) => word)
    .filter((word) => words.includes(word) && !known.has(word.toLowerCase()));
  if (missing.length > 0) {
    throw new UsageError(
      `${folder}: does not know ${missing.join(', ')}; was ${concept.path} fused into it?`,
    );
  }
}
