/** A concept as it takes part in a fusion: checked against the base, with strengths applied and a name to prompt by. */
import path from 'node:path';
import type { Concept, LoraLayer } from '../concepts/concept.ts';
import { conceptName } from '../concepts/concept.ts';
import { checkFinite, layerDelta } from '../concepts/layer-delta.ts';
import { MismatchError, UsageError } from '../errors.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { textLinearLayers } from '../models/clip/structure.ts';
import type { LayerDeltas } from '../models/lora.ts';
import { crossAttentionNames, linearLayers } from '../models/unet/structure.ts';

export interface ParticipantInput {
  readonly concept: Concept;
  /** Multiplies the UNet's deltas; default 1. 0 leaves the concept's words in, but nothing of its weights. */
  readonly unetStrength?: number;
  /** Multiplies the text encoder's deltas; default 1. */
  readonly textEncoderStrength?: number;
  /**
   * What prompts call it. Default: its own words; for a plain LoRA its trigger phrase from the metadata, or
   * else its file name as words.
   */
  readonly name?: string | null;
}

export interface Participant {
  readonly concept: Concept;
  /** What prompts call it. */
  readonly name: string;
  readonly unetStrength: number;
  readonly textEncoderStrength: number;
  /** Deltas per stage's network, by layer name, strengths inside. */
  readonly textDeltas: LayerDeltas;
  readonly unetDeltas: LayerDeltas;
}

/**
 * Read a concept's deltas and check every one against the base.
 * @throws {MismatchError} naming concept and base, the layers that do not fit, and the likely reason
 * @throws {FormatError} if a number is not finite
 * @throws {UsageError} if a strength is not a finite number
 */
export function prepareParticipant(base: Checkpoint, input: ParticipantInput): Participant {
  const { concept, unetStrength = 1, textEncoderStrength = 1 } = input;
  for (const strength of [unetStrength, textEncoderStrength]) {
    if (!Number.isFinite(strength))
      throw new UsageError(`${concept.path}: strength: expected a number, got ${strength}`);
  }
  checkEmbeddings(base, concept);
  const shapes = {
    unet: linearLayers(base.unet.config),
    text_encoder: textLinearLayers(base.textEncoder.config),
  };
  const problems = [...concept.layers.values()]
    .map((layer) => misfit(layer, shapes[layer.component].get(layer.layerName)))
    .filter((problem) => problem !== null);
  if (problems.length > 0) throw misfitError(base, concept, problems);
  checkFinite(concept);
  const deltas = (component: LoraLayer['component'], strength: number): LayerDeltas =>
    new Map(
      [...concept.layers.values()]
        .filter((layer) => layer.component === component)
        .map((layer) => [layer.layerName, layerDelta(layer, strength)]),
    );
  return {
    concept,
    name: input.name ?? defaultName(concept),
    unetStrength,
    textEncoderStrength,
    textDeltas: deltas('text_encoder', textEncoderStrength),
    unetDeltas: deltas('unet', unetStrength),
  };
}

function defaultName(concept: Concept): string {
  const words = conceptName(concept);
  if (words !== '') return words;
  const phrase = concept.metadata.get('modelspec.trigger_phrase') ?? '';
  return phrase !== '' ? phrase : path.parse(concept.path).name.replace(/[_-]+/g, ' ').trim();
}

function misfit(
  { layerName, up, down, rank }: LoraLayer,
  shape: readonly [number, number] | undefined,
): string | null {
  if (shape === undefined) {
    return down.shape.slice(2).some((size) => size > 1)
      ? `${layerName}: a ${down.shape.slice(2).join('×')} convolution; only linear layers and 1×1 convolutions can be fused`
      : `${layerName}: no such linear layer`;
  }
  const [m, n] = [up.shape[0]!, down.shape.slice(1).reduce((a, b) => a * b, 1)];
  return m === shape[0] && n === shape[1]
    ? null
    : `${layerName}: expected up [${shape[0]}, ${rank}] and down [${rank}, ${shape[1]}], got [${m}, ${rank}] and [${rank}, ${n}]`;
}

function misfitError(base: Checkpoint, concept: Concept, problems: readonly string[]): MismatchError {
  const context = base.unet.config.crossAttentionDim;
  const reason = problems.every((problem) => problem.includes('convolution'))
    ? 'a LoCon or LyCORIS file; extract its linear layers first'
    : `trained on a base of other width than this one (text width ${context})?`;
  const shown = problems.slice(0, 4).map((problem) => `\n  ${problem}`);
  return new MismatchError(
    `${concept.path} does not fit ${base.path}: ${problems.length} of ${concept.layers.size} layers; ${reason}${shown.join('')}` +
      (problems.length > 4 ? `\n  … and ${problems.length - 4} more` : ''),
  );
}

function checkEmbeddings(base: Checkpoint, concept: Concept): void {
  const width = base.textEncoder.config.hiddenSize;
  const layers = crossAttentionNames(base.unet.config).length;
  for (const { word, embedding } of concept.tokens) {
    const [rows, columns] = embedding.shape as [number, number];
    if (columns !== width || (rows !== 1 && rows !== layers)) {
      const sizes: Record<number, string> = { 768: 'SD 1.x', 1024: 'SD 2.x', 1280: 'SDXL' };
      const made = sizes[columns] === undefined ? 'another base' : `${sizes[columns]}`;
      throw new MismatchError(
        `${concept.path} does not fit ${base.path}: embedding of ${word}: expected [${layers}, ${width}], ` +
          `got [${rows}, ${columns}]; trained on ${made}?`,
      );
    }
  }
}
