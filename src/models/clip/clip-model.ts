/** A whole CLIP model as it lies on disk: both towers, their projections, its tokenizer and picture preparation. */

import { z } from 'zod';
import { FormatError, MismatchError, UsageError } from '../../errors.ts';
import { openShardedOrSingle } from '../../formats/open-tensor-file.ts';
import type { RawTensor } from '../../formats/raw-tensor.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { exists, infoOf } from '../../io/file-info.ts';
import * as path from '../../io/platform/paths.ts';
import { readConfig } from '../config-file.ts';
import type { WeightSource } from '../network.ts';
import { type ClipTextConfig, clipTextSchema } from './config.ts';
import { type ClipTokenizer, loadTokenizer } from './tokenizer.ts';
import { type ClipVisionConfig, clipVisionSchema } from './vision-config.ts';
import { type ClipPreprocessor, clipPreprocessorSchema, defaultPreprocessor } from './vision-preprocessor.ts';

export interface ClipModel {
  /** Absolute path of the folder. */
  readonly path: string;
  readonly text: ClipTextConfig;
  readonly vision: ClipVisionConfig;
  /** Width of the shared space. */
  readonly projectionDim: number;
  readonly tokenizer: ClipTokenizer;
  readonly preprocessor: ClipPreprocessor;
  /** Parameters by the names of transformers' CLIPModel. */
  readonly weights: WeightSource;
  /** The weight file as it is. */
  readonly file: TensorFile;
}

const modelSchema = z.object({
  text_config: clipTextSchema,
  vision_config: clipVisionSchema,
  projection_dim: z.number().int().positive().max(65_536).default(512),
});
const kindSchema = z.object({ model_type: z.string().default(''), vision_config: z.unknown().optional() });

/**
 * Open a folder as transformers' `CLIPModel.save_pretrained` writes it, e.g. a download of openai/clip-vit-large-patch14.
 * @param options.tokenizer for folders that hold none; default: the folder's own
 * @throws {FormatError} if files are missing, unsafe or damaged; {MismatchError} if it is no whole CLIP model
 */
export async function openClipModel(
  folder: string,
  options: { readonly tokenizer?: ClipTokenizer } = {},
): Promise<ClipModel> {
  const absolute = path.resolve(folder);
  if (!infoOf(absolute)?.isDirectory()) {
    throw new FormatError(folder, 'expected a folder with a CLIP model (config.json, model.safetensors)');
  }
  const configFile = path.join(absolute, 'config.json');
  const kind = await readConfig(configFile, kindSchema);
  if (kind.vision_config === undefined) {
    const got = kind.model_type === '' ? 'another model' : kind.model_type;
    throw new MismatchError(`${folder}: expected a whole CLIP model (text and vision), got ${got}`);
  }
  const config = await readConfig(configFile, modelSchema);
  const file = await openShardedOrSingle(absolute, 'model', 'pytorch_model');
  const preprocessorFile = path.join(absolute, 'preprocessor_config.json');
  return {
    path: absolute,
    text: config.text_config,
    vision: config.vision_config,
    projectionDim: config.projection_dim,
    tokenizer: options.tokenizer ?? (await loadTokenizer(absolute)),
    preprocessor: exists(preprocessorFile)
      ? await readConfig(preprocessorFile, clipPreprocessorSchema)
      : defaultPreprocessor(config.vision_config.imageSize),
    weights: weightsOf(file),
    file,
  };
}

/**
 * The folder of the CLIP model that a base has inside, as the shipped miniature does.
 * @throws {UsageError} where there is none
 */
export function clipBeside(base: string): string {
  const folder = path.join(base, 'clip');
  if (exists(path.join(folder, 'config.json'))) return folder;
  throw new UsageError(
    `${base}: holds no CLIP model; name the folder of one with \`clip\`, e.g. a download of openai/clip-vit-large-patch14`,
  );
}

function weightsOf({ path: label, tensors }: TensorFile): WeightSource {
  return { label, get: (name): RawTensor | undefined => tensors.get(name) };
}
