/** What is ported: one concept file, or the folder of a fusion. */
import { isAdapterFolder } from '../../adapters/read.ts';
import type { Concept } from '../../concepts/concept.ts';
import { UsageError } from '../../errors.ts';
import { infoOf } from '../../io/file-info.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { type ModelDeltas, sumDeltas } from '../../models/lora.ts';
import type { PredictionType } from '../../models/model-schedule.ts';
import { openSceneModel } from '../../sampling/model-source.ts';

export interface PortSource {
  readonly base: Checkpoint;
  readonly deltas: ModelDeltas;
  /** With words. */
  readonly concepts: readonly Concept[];
  /** What prompts call the concepts. */
  readonly names: readonly string[];
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
  return { base: model.base, deltas, concepts: model.worded, names: model.conceptNames };
}
