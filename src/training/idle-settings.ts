/** Settings that somebody gave and that change nothing beside the others: said rather than passed over. */
import type { ResolvedSettings, TrainingMethod } from './methods/method.ts';

interface IdleRule {
  readonly setting: keyof ResolvedSettings;
  readonly isIdle: (settings: ResolvedSettings, method: TrainingMethod) => boolean;
  readonly note: string;
}

const hasNoFactors = (_: ResolvedSettings, { unet, text }: TrainingMethod): boolean =>
  unet !== 'factors' && !text;
const leavesText = ({ lrText }: ResolvedSettings, { text }: TrainingMethod): boolean => !text || lrText === 0;
const leavesFactorsOfUnet = ({ lrUnet }: ResolvedSettings, { unet }: TrainingMethod): boolean =>
  unet !== 'factors' || lrUnet === 0;

const RULES: readonly IdleRule[] = [
  {
    setting: 'samplePrompt',
    isIdle: ({ sampleEvery }) => sampleEvery === 0,
    note: '`samplePrompt` has no effect without `sampleEvery`',
  },
  {
    setting: 'keepParts',
    isIdle: ({ shuffleCaptions }) => !shuffleCaptions,
    note: '`keepParts` has no effect without `shuffleCaptions`',
  },
  {
    setting: 'kdeBandwidth',
    isIdle: ({ kdeWeight }) => kdeWeight === 0,
    note: '`kdeBandwidth` has no effect without `kdeWeight`',
  },
  {
    setting: 'fullIdentity',
    isIdle: ({ attentionWeight }) => attentionWeight === 0,
    note: '`fullIdentity` has no effect without `attentionWeight`',
  },
  {
    setting: 'classImages',
    isIdle: ({ priorWeight }, { prior }) => !prior || priorWeight === 0,
    note: '`classImages` has no effect: no class pictures take part',
  },
  {
    setting: 'lrText',
    isIdle: (_, { text }) => !text,
    note: '`lrText` has no effect: this method leaves the text encoder as it is',
  },
  {
    setting: 'lrUnet',
    isIdle: (_, { unet }) => unet === 'none',
    note: '`lrUnet` has no effect: this method leaves the UNet as it is',
  },
  { setting: 'rank', isIdle: hasNoFactors, note: '`rank` has no effect: this method trains no factors' },
  { setting: 'alpha', isIdle: hasNoFactors, note: '`alpha` has no effect: this method trains no factors' },
  {
    setting: 'textLayers',
    isIdle: leavesText,
    note: '`textLayers` has no effect: nothing of the text encoder is trained',
  },
  {
    setting: 'layers',
    isIdle: leavesFactorsOfUnet,
    note: '`layers` has no effect: no factors of the UNet are trained',
  },
];

/**
 * One note for each setting that has no effect.
 * @param settings all of them, defaults in place
 * @param given    names of those that somebody gave
 */
export function idleSettingNotes(
  method: TrainingMethod,
  settings: ResolvedSettings,
  given: Iterable<string>,
): string[] {
  const own = new Set(given);
  return RULES.filter(({ setting, isIdle }) => own.has(setting) && isIdle(settings, method)).map(
    ({ note }) => note,
  );
}
