/** What is ported: one concept file, or the folder of a fusion. */
import { isAdapterFolder } from '../../adapters/read.ts';
import type { Concept } from '../../concepts/concept.ts';
import { FormatError, UsageError } from '../../errors.ts';
import { InputFiles } from '../../formats/input-files.ts';
import { infoOf } from '../../io/file-info.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { type ModelDeltas, sumDeltas } from '../../models/lora.ts';
import type { PredictionType } from '../../models/model-schedule.ts';
import { openSceneModel } from '../../sampling/model-source.ts';
import { prepareConcept } from '../fusion-concept.ts';
import type { CollectOptions } from '../options.ts';
import { conceptFiles } from '../recipe.ts';
import { readFusionRecipe, recipeConcepts } from '../repeat.ts';

/** A concept's own model, before any fusion. */
export interface PortTeacher {
  /** What prompts call it. */
  readonly name: string;
  /** Its changes of the base, strengths inside. */
  readonly deltas: ModelDeltas;
}

/** What the refinement of a port learns from. */
export interface PortTeachers {
  readonly teachers: readonly PortTeacher[];
  /** Of its pictures, in pixels: that of a fusion's features; null: the base's own. */
  readonly size: CollectOptions['size'];
}

export interface PortSource {
  readonly base: Checkpoint;
  readonly deltas: ModelDeltas;
  /** With words. */
  readonly concepts: readonly Concept[];
  /** What prompts call the concepts. */
  readonly names: readonly string[];
  /**
   * Of a fusion its concepts' files are read.
   * @throws {FormatError} naming a file of the fusion's recipe that is not there, or not what it was
   */
  readonly readTeachers: (signal?: AbortSignal) => Promise<PortTeachers>;
}

export interface PortSourceOptions {
  /** Base model. Default: what the fusion was made on, or the shipped miniature. */
  readonly base?: string;
  readonly baseConfig?: string;
  readonly prediction?: PredictionType;
  /** Of a concept file. Default 1. */
  readonly strength?: number;
}

/**
 * Open a concept (a file of an ED-LoRA or a LoRA with words, or a LoRA's folder) or a fusion's folder.
 * @throws {UsageError} if it has no words of its own
 * @throws {FormatError | MismatchError} if it is damaged or does not fit the base
 */
export async function openPortSource(
  file: string,
  { base, baseConfig, prediction, strength = 1 }: PortSourceOptions = {},
): Promise<PortSource> {
  const isFusion = infoOf(file)?.isDirectory() === true && !isAdapterFolder(file);
  const entry = { path: file, unetStrength: strength, textEncoderStrength: strength };
  const model = await openSceneModel({
    base,
    baseConfig,
    prediction,
    fused: isFusion ? file : undefined,
    concepts: isFusion ? [] : [entry],
    loras: [],
  });
  if (model.worded.length === 0) {
    throw new UsageError(
      `${file}: has no words of its own, so there is nothing to port: as a plain LoRA other programs read it as it is`,
    );
  }
  const strengths = model.concepts.map(() => strength);
  const deltas = sumDeltas(
    [model.deltas, ...model.concepts.map((concept) => concept.deltas)],
    [1, ...strengths],
  );
  const source = { base: model.base, deltas, concepts: model.worded, names: model.conceptNames };
  if (isFusion) return { ...source, readTeachers: (signal) => fusionTeachers(source.base, file, signal) };
  const [name] = source.names;
  return { ...source, readTeachers: async () => ({ teachers: [{ name: name!, deltas }], size: null }) };
}

/** The concepts of a fusion, from the very files that it was made of. */
async function fusionTeachers(
  base: Checkpoint,
  folder: string,
  signal: AbortSignal | undefined,
): Promise<PortTeachers> {
  const recipe = await readFusionRecipe(folder);
  const teachers: PortTeacher[] = [];
  const inputs = new InputFiles(signal);
  for (const [i, input] of (await recipeConcepts(recipe)).entries()) {
    const recorded = recipe.concepts[i]!.files;
    const now = await inputs.hashes(conceptFiles(input.concept));
    for (const { path: file, sha256 } of recorded) {
      const found = now.get(file);
      if (found === sha256) continue;
      throw new FormatError(
        file,
        `expected the file of the fusion, sha256 ${sha256}, got ${found ?? 'another file'}: its refinement learns from the concepts as they were fused`,
      );
    }
    teachers.push(await prepareConcept(base, input));
  }
  return { teachers, size: recipe.options.size };
}
