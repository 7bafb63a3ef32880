/** The left side of the answers' equations, the same for all layers since the shared embeddings are. */
import { type AsyncCholeskyFactor, choleskyAsync } from '../../linalg/cholesky-async.ts';
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { type Matrix, transpose } from '../../linalg/matrix.ts';
import { addDiagonal, combined, trace } from './matrix-terms.ts';
import type { PortOptions } from './port-options.ts';

/** Captions in the model with the changes and in the base, as far as the equations ask. */
export interface CaptionTerms {
  /** X_c X_cᵀ; empty without captions. */
  readonly gram: Matrix;
  /** Σ f_c x_cᵀ */
  readonly cross: Matrix;
}

export async function captionTerms(
  { own, base }: Readonly<Record<'own' | 'base', Matrix>>,
  multiply: MatmulEngine,
): Promise<CaptionTerms> {
  return { gram: await multiply(transpose(own), own), cross: await multiply(transpose(base), own) };
}

/** β and λ as the equations have them. */
export interface AbsoluteWeights {
  readonly beta: number;
  readonly lambda: number;
}

/** @param gram X Xᵀ of the templates */
export function absoluteWeights(
  { preserve, ridge }: Pick<PortOptions, 'preserve' | 'ridge'>,
  gram: Matrix,
  captions: CaptionTerms,
): AbsoluteWeights {
  const ofCaptions = trace(captions.gram);
  const beta = ofCaptions === 0 ? 0 : (preserve * trace(gram)) / ofCaptions;
  return { beta, lambda: (ridge * trace(gram)) / gram.rows };
}

/** L of M = X Xᵀ + β X_c X_cᵀ + λ I. @throws {NumericalError} if features are not finite */
export async function normalFactor(
  gram: Matrix,
  captions: CaptionTerms,
  { beta, lambda }: AbsoluteWeights,
  multiply: MatmulEngine,
): Promise<AsyncCholeskyFactor> {
  const normal = combined(gram, 1, captions.gram, beta);
  addDiagonal(normal, lambda);
  return choleskyAsync(normal, multiply);
}
