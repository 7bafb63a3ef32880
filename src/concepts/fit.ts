/** A concept against the base it is to change: every layer and embedding checked, deltas as numbers. */
import { scaledDelta } from '../adapters/delta.ts';
import { MismatchError, UsageError } from '../errors.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { familyNamed } from '../models/families/families.ts';
import { isLinear, type Layer, type LayerId, layerId } from '../models/families/layer-table.ts';
import { familyOfWordWidth } from '../models/families/recognise.ts';
import type { ModelDeltas } from '../models/lora.ts';
import { Pace } from '../pace.ts';
import type { Concept, PlainLayer } from './concept.ts';
import { checkHalves } from './encoder-halves.ts';
import { checkFinite } from './finite.ts';

export interface ConceptStrengths {
  /** Multiplies the UNet's deltas; default 1. */
  readonly unetStrength?: number;
  /** Multiplies the text encoder's deltas; default 1. */
  readonly textEncoderStrength?: number;
}

export interface FitOptions extends ConceptStrengths {
  /** Take factors of 3×3 convolutions too (LoCon): the sampler can apply them, fusion cannot. Default false. */
  readonly convolutions?: boolean;
}

/**
 * Read a concept's deltas and check every one against the base.
 * @throws {MismatchError} naming concept and base, the layers that do not fit, and the likely reason
 * @throws {FormatError} if a number is not finite
 * @throws {UsageError} if a strength is not a finite number
 */
export async function conceptDeltas(
  base: Checkpoint,
  concept: Concept,
  { unetStrength = 1, textEncoderStrength = 1, convolutions = false }: FitOptions = {},
): Promise<ModelDeltas> {
  for (const strength of [unetStrength, textEncoderStrength]) {
    if (!Number.isFinite(strength))
      throw new UsageError(`${concept.path}: strength: expected a number, got ${strength}`);
  }
  const problems = [...concept.layers]
    .map(([id, layer]) => {
      const own = base.parts.layers.get(id);
      return misfit(layer, own === undefined || convolutions || isLinear(own) ? own : undefined);
    })
    .filter((problem) => problem !== null);
  if (problems.length > 0) checkFamily(base, concept);
  checkEmbeddings(base, concept);
  if (problems.length > 0) throw misfitError(base, concept, problems);
  const pace = new Pace();
  await checkFinite(concept, pace);
  const deltas = new Map<LayerId, LowRank>();
  for (const layer of concept.layers.values()) {
    const { component, layerName } = layer;
    const strength = component === 'unet' ? unetStrength : textEncoderStrength;
    deltas.set(layerId(component, layerName), scaledDelta(layer, strength));
    await pace.turn();
  }
  return deltas;
}

function misfit({ layerName, up, down, rank }: PlainLayer, own: Layer | undefined): string | null {
  if (own === undefined) {
    return down.shape.slice(2).some((size) => size > 1)
      ? `${layerName}: a ${down.shape.slice(2).join('×')} convolution; only linear layers and 1×1 convolutions can be used`
      : `${layerName}: no such linear layer`;
  }
  const [m, n] = [up.shape[0]!, down.shape.slice(1).reduce((a, b) => a * b, 1)];
  return m === own.m && n === own.n
    ? null
    : `${layerName}: expected up [${own.m}, ${rank}] and down [${rank}, ${own.n}], got [${m}, ${rank}] and [${rank}, ${n}]`;
}

/** @throws {MismatchError} naming both, if a concept whose layers do not fit is of another family than the base */
function checkFamily({ family, path: base }: Checkpoint, { family: own, path }: Concept): void {
  if (own === undefined || own === family.name) return;
  throw new MismatchError(
    `${path}: expected a concept for ${family.title} as ${base}, got one for ${familyNamed(own).title}`,
  );
}

function misfitError(base: Checkpoint, concept: Concept, problems: readonly string[]): MismatchError {
  const context = base.parts.unet.config.crossAttentionDim;
  const reason = problems.every((problem) => problem.includes('convolution'))
    ? 'a LoCon or LyCORIS file; extract its linear layers first'
    : `trained on a base of other width than this one (text width ${context})?`;
  const shown = problems.slice(0, 4).map((problem) => `\n  ${problem}`);
  return new MismatchError(
    `${concept.path} does not fit ${base.path}: ${problems.length} of ${concept.layers.size} layers; ${reason}${shown.join('')}` +
      (problems.length > 4 ? `\n  … and ${problems.length - 4} more` : ''),
  );
}

/**
 * Every word has one vector, or one per cross-attention, of each text encoder's width.
 * @throws {MismatchError} naming concept, base, and the word with what it has
 */
function checkEmbeddings({ parts, path: base }: Checkpoint, concept: Concept): void {
  const layers = parts.layers.contextCount;
  const misfit = (word: string, text: string): MismatchError =>
    new MismatchError(`${concept.path} does not fit ${base}: embedding of ${word}: ${text}`);
  for (const { word, embeddings } of concept.tokens) {
    checkHalves(parts, embeddings.keys(), (text) => misfit(word, text));
    for (const [encoder, { shape }] of embeddings) {
      const width = parts.textEncoders.get(encoder)!.config.hiddenSize;
      const [rows, columns] = shape as [number, number];
      if (columns === width && (rows === 1 || rows === layers)) continue;
      const made = familyOfWordWidth(columns)?.shortTitle ?? 'another base';
      throw misfit(word, `expected [${layers}, ${width}], got [${rows}, ${columns}]; trained on ${made}?`);
    }
  }
}
