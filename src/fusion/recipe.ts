/** What a fusion was made of: every resolved option and the hash of every input, enough to make it again. */
import type { Concept } from '../concepts/concept.ts';
import type { LoraNaming } from '../concepts/lora-file.ts';
import { type InputFiles, openedFiles } from '../formats/input-files.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { PredictionType } from '../models/model-schedule.ts';
import { packageVersion, toolVersion } from '../package-root.ts';
import { defined } from '../settings.ts';
import type { Fusion } from './fusion.ts';
import type { FusionOptions } from './options.ts';

export interface RecordedFile {
  /** Absolute path at the time. */
  readonly path: string;
  readonly sha256: string;
}

export interface FusionRecipe {
  readonly tool: 'edlora';
  readonly kind: 'fusion';
  readonly versions: { readonly edlora: string; readonly node: string; readonly onnxruntime: string };
  readonly base: {
    readonly path: string;
    /** What the user said that it predicts, if they did. */
    readonly prediction?: PredictionType;
    readonly files: readonly RecordedFile[];
  };
  readonly concepts: readonly {
    /** Absolute path of its file or folder at the time. */
    readonly path: string;
    readonly name: string;
    /** As they were called here, in the order of the file. */
    readonly words: readonly string[];
    readonly unetStrength: number;
    readonly textEncoderStrength: number;
    readonly files: readonly RecordedFile[];
  }[];
  readonly options: FusionOptions;
  readonly captions: readonly string[];
  /** How the merged LoRA's keys are spelled. */
  readonly naming: LoraNaming;
}

let versions: FusionRecipe['versions'] | undefined;

/** Versions of what computes the numbers. Asked for before the work, so that nothing can be missing after it. */
export function toolVersions(): FusionRecipe['versions'] {
  versions ??= {
    edlora: toolVersion(),
    node: process.versions.node,
    onnxruntime: packageVersion('onnxruntime-node'),
  };
  return versions;
}

/** The files that a weight file's tensors lie in: itself, or its shards. */
export function filesOf({ path: file, tensors }: TensorFile): string[] {
  const files = new Set([file]);
  for (const { storage } of tensors.values()) if (storage.range !== null) files.add(storage.range.file);
  return [...files];
}

/** Files of the base whose numbers a fusion depends on. */
export function baseFiles({ parts }: Checkpoint): string[] {
  return [...new Set(parts.changeable().flatMap(([, { file }]) => filesOf(file)))];
}

/** Files that a concept's tensors lie in. */
export function conceptFiles(concept: Concept): string[] {
  const files = tensorsOf(concept).flatMap(({ storage }) =>
    storage.range === null ? [] : [storage.range.file],
  );
  return [...new Set(files.length === 0 ? [concept.path] : files)];
}

const tensorsOf = ({ tokens, layers }: Concept): RawTensor[] => [
  ...tokens.flatMap(({ embeddings }) => [...embeddings.values()]),
  ...[...layers.values()].flatMap(({ up, down }) => [up, down]),
];

/** Count a base among the files that a job reads, as it was when it was opened. */
export function addBase(inputs: InputFiles, base: Checkpoint): void {
  const tensors = base.parts.changeable().flatMap(([, { file }]) => [...file.tensors.values()]);
  inputs.add(baseFiles(base), openedFiles(tensors));
}

/** Count a concept among the files that a job reads, as it was when it was opened. */
export function addConcept(inputs: InputFiles, concept: Concept): void {
  inputs.add(conceptFiles(concept), openedFiles(tensorsOf(concept)));
}

/**
 * Describe a fusion; inputs that no statistics were looked up for are read once to hash them.
 * @throws {FormatError} if an input has vanished, or changed since it was opened
 */
export async function fusionRecipe(
  { base, concepts, options, captions, inputs }: Fusion,
  naming: LoraNaming,
): Promise<FusionRecipe> {
  const ofBase = baseFiles(base);
  const ofConcepts = concepts.map(({ concept }) => conceptFiles(concept));
  const hashes = await inputs.hashes([...ofBase, ...ofConcepts.flat()]);
  const hashed = (files: readonly string[]): RecordedFile[] =>
    files.map((file) => ({ path: file, sha256: hashes.get(file)! }));
  return {
    tool: 'edlora',
    kind: 'fusion',
    versions: toolVersions(),
    base: {
      path: base.path,
      ...defined({ prediction: base.schedule.chosenPrediction }),
      files: hashed(ofBase),
    },
    concepts: concepts.map(({ concept, name, unetStrength, textEncoderStrength }, i) => ({
      path: concept.path,
      name,
      words: concept.tokens.map(({ word }) => word),
      unetStrength,
      textEncoderStrength,
      files: hashed(ofConcepts[i]!),
    })),
    options,
    captions,
    naming,
  };
}
