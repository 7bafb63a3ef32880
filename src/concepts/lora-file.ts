/** What was fused or trained, as an adapter to write: factors as they were computed, words with their embeddings. */

import type { LoraLayer } from '../adapters/adapter.ts';
import { encodeFactors, type FactorDType } from '../adapters/encode-layer.ts';
import { formOfWords, writeWords } from '../adapters/words.ts';
import { refuseLoss, unsupportedBy, writeAdapter } from '../adapters/write.ts';
import { ShapeError } from '../errors.ts';
import * as path from '../io/platform/paths.ts';
import { DEFAULT_FAMILY } from '../models/families/families.ts';
import type { Family } from '../models/families/family.ts';
import { type ModulePath, moduleId } from '../models/keys/module-path.ts';
import { Pace } from '../pace.ts';
import type { ConceptToken } from './concept.ts';
import { wordsOf } from './concept-words.ts';

/** Schemes that fusions and trainings are written in. */
export const loraNamings = ['kohya', 'diffusers', 'peft', 'ed-lora'] as const;

/** How the keys of a written LoRA are spelled. */
export type LoraNaming = (typeof loraNamings)[number];

/** One layer's merged factors. */
export interface MergedLayer extends ModulePath {
  /** [m, r], row-major. */
  readonly up: Float32Array;
  /** [r, n], for convolutions [r, n · kh · kw]. */
  readonly down: Float32Array;
  readonly rank: number;
  /** Kernel of a convolution, e.g. `[1, 1]` where the base weight is [m, n, 1, 1]; `null` for a linear layer. */
  readonly kernel: readonly [height: number, width: number] | null;
  /** ΔW = loraAlpha / rank · up · down. Default: the rank. It is multiplied into `up` when written. */
  readonly loraAlpha?: number;
}

export interface WriteLoraOptions {
  /** Default `kohya`. */
  readonly naming?: LoraNaming;
  /** Of the base. Default: the family that files without a sign are of. */
  readonly family?: Family;
  /** Of the factors. Default F32. */
  readonly dtype?: FactorDType;
  /** Title in the header. Default: the file's name without its extension. */
  readonly title?: string;
  /** Titles of the inputs, for the header. */
  readonly mergedFrom?: readonly string[];
  /** Words and embeddings: stored by `ed-lora`, named in the header by the others' `modelspec.trigger_phrase`. */
  readonly tokens?: readonly ConceptToken[];
  /** Further header entries, e.g. the recipe. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

/**
 * Write a LoRA. An existing file is replaced once the new one is complete.
 * @param target a file: safetensors, or for `ed-lora` Mix-of-Show's own form if it ends in `.pth` (which has no header to
 *   describe it); for `peft` a folder, with weights and configuration of each network
 * @throws {ShapeError} if factors do not fit their rank and kernel
 * @throws {NumericalError} if a number is not finite, or too large for the dtype
 * @throws {UsageError} if two layers are the same, there is nothing to write, or a layer that the naming cannot hold
 * @throws {FormatError} if the file would not be read again as these layers and words
 */
export async function writeLora(
  target: string,
  layers: Iterable<MergedLayer>,
  options: WriteLoraOptions = {},
): Promise<void> {
  const {
    naming = 'kohya',
    family = DEFAULT_FAMILY,
    dtype = 'F32',
    tokens = [],
    mergedFrom,
    metadata,
    signal,
  } = options;
  const pace = new Pace(signal);
  const encoded: LoraLayer[] = [];
  for (const layer of layers) {
    encoded.push(encodeMerged(layer, dtype));
    await pace.turn();
  }
  const output = {
    architecture: family.name,
    layers: encoded,
    // A single vector of a concept serves every layer, as it is.
    words: namingHoldsWords(naming) ? wordsOf(tokens, true) : [],
    triggerWords: tokens.map(({ word }) => word),
    title: options.title ?? path.basename(target).replace(/\.(safetensors|pth)$/, ''),
    mergedFrom,
    metadata,
  };
  refuseLoss(target, unsupportedBy(naming, output), false);
  await writeAdapter(target, naming, output, pace);
}

/** Whether embeddings lie in the LoRA itself; where not, they are a file of their own. */
export function namingHoldsWords(naming: LoraNaming): boolean {
  return naming === 'ed-lora';
}

/** Scale and round one layer's factors. */
function encodeMerged(layer: MergedLayer, dtype: FactorDType): LoraLayer {
  const { rank, kernel, loraAlpha = rank, down } = layer;
  const area = kernel === null ? 1 : kernel[0] * kernel[1];
  const [m, n] = [layer.up.length / rank, down.length / (rank * area)];
  if (![rank, m, n].every((size) => Number.isInteger(size) && size > 0)) {
    throw new ShapeError(
      `${moduleId(layer)}: expected up [m, ${rank}] and down [${rank}, n${kernel === null ? '' : ` · ${kernel.join(' · ')}`}], got ${layer.up.length} and ${down.length} numbers`,
    );
  }
  const scale = loraAlpha / rank;
  const up = scale === 1 ? layer.up : layer.up.map((value) => value * scale);
  return encodeFactors(layer, kernel, { m, rank, up, down }, dtype);
}

/**
 * Write embeddings alone: one tensor [L, D] per word, under the word.
 * @throws {UsageError} if there is none, or two words are the same
 * @throws {FormatError} if the file would not be read again as these words
 */
export async function writeEmbeddings(
  file: string,
  tokens: Iterable<ConceptToken>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const words = wordsOf(tokens);
  await writeWords(file, formOfWords(words), words, metadata);
}
