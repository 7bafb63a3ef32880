/** Every kind of file that is read. */
import type { Target } from '../target.ts';
import { adapterTargets } from './adapters.ts';
import { documentTargets } from './documents.ts';
import { modelTargets } from './models.ts';
import { pictureTargets } from './pictures.ts';
import { stateTargets } from './states.ts';
import { textTargets } from './texts.ts';
import { weightTargets } from './weights.ts';

export const targets: readonly Target[] = [
  ...weightTargets,
  ...adapterTargets,
  ...stateTargets,
  ...documentTargets,
  ...pictureTargets,
  ...modelTargets,
  ...textTargets,
];
