import type { SourceStrengths } from './concept-places.ts';
import type { SourceContexts } from './unet-denoiser.ts';

/** Concepts that act together, see combine.ts. */
export interface CombinedModel {
  /** What context and regions say, as this model reads it; of equal lengths in all models. */
  readonly sources: readonly SourceContexts[];
  /** How much each concept of the UNet counts for each of them. */
  readonly strengths: SourceStrengths;
}
