/** A deprojector as it is used: its network, the space that its embeddings lie in, and which text encoder its states are of. */
import { MismatchError } from '../errors.ts';
import type { WeightSource } from '../models/network.ts';
import type { EmbeddingSpace } from './embedding.ts';
import { DEPROJECTOR_MODELS, type DeprojectorModelName } from './models/index.ts';
import type { DeprojectorShape } from './models/model.ts';
import type { DeprojectorPlan } from './network.ts';

export interface Deprojector {
  /** File, for messages. */
  readonly label: string;
  readonly model: DeprojectorModelName;
  readonly shape: DeprojectorShape;
  /** Positions that it makes: all of the text encoder's but the first. */
  readonly positions: number;
  readonly space: EmbeddingSpace;
  /** State of the first position, [D]. */
  readonly start: Float32Array;
  /** `textEncoderHash` of the encoder whose states it makes. */
  readonly textEncoder: string;
  /** Parameters by name. */
  readonly weights: WeightSource;
}

/** What its graphs are written from. */
export const planOf = ({
  model,
  shape,
  positions,
}: Omit<DeprojectorPlan, 'model'> & { readonly model: DeprojectorModelName }): DeprojectorPlan => ({
  model: DEPROJECTOR_MODELS[model],
  shape,
  positions,
});

/** @throws {MismatchError} if the states of `label` are of another text encoder than the base's */
export function checkEncoder(label: string, textEncoder: string, hash: string): void {
  if (textEncoder === hash) return;
  throw new MismatchError(
    `${label}: expected states of the text encoder ${hash.slice(0, 12)}, which this base has, got ${textEncoder.slice(0, 12)}; ` +
      'use it with the base that it was trained on, or train one for this base',
  );
}
