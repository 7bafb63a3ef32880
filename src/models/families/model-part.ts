/** A network of an opened model. */

import type { TensorFile } from '../../formats/tensor-file.ts';
import type { ClipTextConfig } from '../clip/config.ts';
import type { ClipTokenizer } from '../clip/tokenizer.ts';
import type { WeightSource } from '../network.ts';
import type { Layer } from './layer-table.ts';

/** One network of an opened base. */
export interface ModelPart<C> {
  readonly config: C;
  readonly weights: WeightSource;
  /** The weight files as they are, for hashing and rewriting. */
  readonly file: TensorFile;
  /** What can be changed in it, by layer name. */
  readonly layers: ReadonlyMap<string, Layer>;
}

/** A text encoder, and what makes its token ids. */
export interface TextPart extends ModelPart<ClipTextConfig> {
  readonly tokenizer: ClipTokenizer;
}
