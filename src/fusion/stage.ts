/**
 * The three stages of a fusion. Each feeds the next: the text encoder makes the features that K and V of the
 * cross-attentions read, and both shape what the spatial layers see.
 */
import type { Layer } from '../models/families/layer-table.ts';
import type { Component } from '../models/keys/module-path.ts';
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

/** The network whose layers a stage solves. */
export function componentOf(stage: Stage): Component {
  return stage === 'text' ? 'text_encoder' : 'unet';
}
