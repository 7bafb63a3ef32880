/**
 * The three stages of a fusion. Each feeds the next: the text encoder makes the features that K and V of the
 * cross-attentions read, and both shape what the spatial layers see.
 */
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ComponentId, Layer } from '../models/families/layer-table.ts';
import { isKeyOrValue } from '../models/unet/keys-values.ts';

export const STAGES = ['text', 'cross', 'spatial'] as const;
export type Stage = (typeof STAGES)[number];

/** One number per stage. */
export type PerStage = Readonly<Record<Stage, number>>;

/** `text`: text encoders; `cross`: K and V of cross-attentions; `spatial`: every other linear layer of the UNet. */
export function stageOf({ component, layerName }: Pick<Layer, 'component' | 'layerName'>): Stage {
  if (component !== 'unet') return 'text';
  return isKeyOrValue(layerName) ? 'cross' : 'spatial';
}

/** The network whose layers a stage solves. @throws {MismatchError} for the text stage of a base with several encoders */
export function componentOf({ parts }: Checkpoint, stage: Stage): ComponentId {
  return stage === 'text' ? parts.textEncoderId : 'unet';
}
