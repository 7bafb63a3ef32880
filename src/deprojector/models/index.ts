/** The table of the models: who adds one adds its page and its line here. */
import type { DeprojectorModel } from './model.ts';
import { transformer } from './transformer.ts';
import { vicinityIndividual } from './vicinity-individual.ts';
import { vicinityJoint } from './vicinity-joint.ts';

export const DEPROJECTOR_MODELS = {
  transformer,
  'vicinity-joint': vicinityJoint,
  'vicinity-individual': vicinityIndividual,
} as const satisfies Record<string, DeprojectorModel>;

export type DeprojectorModelName = keyof typeof DEPROJECTOR_MODELS;
export const DEPROJECTOR_MODEL_NAMES = Object.keys(DEPROJECTOR_MODELS) as DeprojectorModelName[];
