/**
 * The three stages of a fusion. Each feeds the next: the text encoder makes the features that K and V of the
 * cross-attentions read, and both shape what the spatial layers see.
 */
import { type ComponentId, type Layer, type LayerId, layerId } from '../models/families/layer-table.ts';
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

/** The network that names of a stage need not say: bases with one text encoder have no other. */
const USUAL_COMPONENT: Readonly<Record<Stage, ComponentId>> = {
  text: 'text_encoder',
  cross: 'unet',
  spatial: 'unet',
};

/**
 * What a layer, or the input of one, is called among those of its stage: its own name, and of further text encoders the network in
 * front, `text_encoder_2:…`.
 */
export function nameInStage(stage: Stage, component: ComponentId, name: string): string {
  return component === USUAL_COMPONENT[stage] ? name : layerId(component, name);
}

/** The layer of a name in a stage. */
export function idInStage(stage: Stage, name: string): LayerId {
  return name.includes(':') ? (name as LayerId) : layerId(USUAL_COMPONENT[stage], name);
}

/** What a map over a base's layers has for those of a stage, by their names in it. */
export function ofStage<T>(
  stage: Stage,
  names: readonly string[],
  all: ReadonlyMap<LayerId, T>,
): Map<string, T> {
  return new Map(
    names.flatMap((name) => {
      const own = all.get(idInStage(stage, name));
      return own === undefined ? [] : [[name, own] as const];
    }),
  );
}
