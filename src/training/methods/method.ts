/** The form of a training method, and the settings that depend on it. */
import { UsageError } from '../../errors.ts';
import { defined } from '../../settings.ts';
import type { TrainingMethodName, TrainingSettings } from '../options.ts';

/** Settings whose default depends on the method. */
export interface MethodDefaults {
  readonly rank: number;
  /** ΔW = alpha · up · down, or alpha / rank · up · down where `alphaOverRank`. */
  readonly alpha: number;
  readonly lrEmbedding: number;
  readonly lrText: number;
  readonly lrUnet: number;
  readonly noiseOffset: number;
  readonly priorWeight: number;
}

export interface TrainingMethod {
  readonly name: TrainingMethodName;
  readonly title: string;
  readonly source: string;
  readonly defaults: MethodDefaults;
  /** One embedding per cross-attention layer (true) or one for all. */
  readonly layerwise: boolean;
  /** Whether it makes no sense without new words. */
  readonly needsWords: boolean;
  /** What changes in the UNet: factors, whole K and V of cross-attention, or nothing. */
  readonly unet: 'factors' | 'keys-values' | 'none';
  /** Whether the text encoder gets factors. */
  readonly text: boolean;
  readonly alphaOverRank: boolean;
  /** The first text token's keys and values get no gradient. */
  readonly detachFirstToken: boolean;
  /** Whether class pictures keep the prior. */
  readonly prior: boolean;
}

export type ResolvedSettings = TrainingSettings & {
  -readonly [K in keyof MethodDefaults]: MethodDefaults[K];
};

/** Settings with the method's defaults in place. @throws {UsageError} for settings that the method cannot honour */
export function resolveSettings(method: TrainingMethod, settings: TrainingSettings): ResolvedSettings {
  const resolved = { ...method.defaults, ...defined(settings) } as ResolvedSettings;
  const refuse = (name: string, why: string): never => {
    throw new UsageError(`${name}: ${method.title} ${why}`);
  };
  if (method.needsWords && settings.token === '') refuse('token', 'trains words; name one or more');
  const factors = method.unet === 'factors' || method.text;
  if (!factors) {
    for (const name of ['convRank', 'rankDropout', 'moduleDropout'] as const) {
      if (settings[name] > 0) refuse(name, 'trains no factors');
    }
    if (settings.factors !== 'lora') refuse('factors', 'trains no factors');
  }
  if (method.unet === 'none' && settings.kvDrop > 0) refuse('kvDrop', 'does not change the UNet');
  if (method.name !== 'textual-inversion') {
    if (settings.vectors > 1) refuse('vectors', 'has one vector per word and layer; name more words instead');
    if (settings.progressive) refuse('progressive', 'has one vector per word and layer');
    if (settings.perImageTokens) refuse('perImageTokens', 'has no words per picture');
  }
  if (settings.token === '') {
    for (const name of ['classWeight', 'kdeWeight'] as const) {
      if (settings[name] > 0) refuse(name, 'was given no words');
    }
  }
  if (!method.prior && settings.classData + settings.classPrompt !== '')
    refuse('class pictures', 'has no prior preservation; use dreambooth-lora or custom-diffusion');
  if (method.prior && settings.buckets) refuse('buckets', 'mixes in class pictures of one size');
  if (method.prior && resolved.priorWeight > 0 && settings.classPrompt === '')
    refuse(
      'classPrompt',
      'keeps a prior: say what the class is, e.g. "photo of a dog", or set priorWeight 0',
    );
  if (settings.attentionWeight > 0 && settings.token.split('+').length % 2 !== 0)
    refuse(
      'attentionWeight',
      'holds pairs of words to the mask, an adjective and a subject for each concept',
    );
  return resolved;
}
