/**
 * ED-LoRA files: Mix-of-Show's `.pth`, `{'params': {'new_concept_embedding', 'text_encoder', 'unet'}}`, with or
 * without the `params` level, and the same flattened into safetensors. Factors apply as up · down: no alpha is stored
 * and nothing is divided by the rank.
 * Source: TencentARC/Mix-of-Show@51270fd, mixofshow/pipelines/trainer_edlora.py (delta_state_dict).
 */
import { FormatError } from '../../errors.ts';
import { isFloatDType } from '../../formats/dtype.ts';
import { excerpt } from '../../formats/excerpt.ts';
import { elementCount, type RawTensor, renamed } from '../../formats/raw-tensor.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { torchTensor } from '../../formats/torch-writer.ts';
import { refusedByFamily } from '../../models/families/adapter-layers.ts';
import { type AdapterComponent, kernelArea, type LoraLayer } from '../adapter.ts';
import { collectAdapterLayers } from '../layer-parts.ts';
import { isTorchName, layerWiseWords } from '../word-forms.ts';
import { describe } from './describe.ts';
import { edLoraEmbeddingKey, edLoraKey, edLoraWord, isEdLoraName } from './ed-lora-names.ts';
import { factorTensors } from './factor-tensors.ts';
import { parseAdapterName } from './names.ts';
import type { FactorKey, Scheme, SchemeReader } from './scheme.ts';
import { embeddingRows } from './textual-inversion.ts';

const params = /^params\./;

/**
 * Header entry of our safetensors form: the words as a JSON list. Those files order tensors by name, and the order of
 * a concept's words is part of what it means.
 */
export const tokenOrderKey = 'edlora.tokens';

/** A word, and one vector or one per cross-attention layer. */
export interface EdLoraWord {
  readonly word: string;
  /** [L, D] or [1, D]. */
  readonly embedding: RawTensor;
}

/**
 * The words of a file and their embeddings, in the order that the file means.
 * @throws {FormatError} on embeddings that are no [L, D] of one size
 */
export function orderedWords(file: TensorFile): readonly EdLoraWord[] {
  const tokens: EdLoraWord[] = [];
  for (const tensor of file.tensors.values()) {
    const word = edLoraWord(tensor.name.replace(params, ''));
    if (word !== null) tokens.push({ word, embedding: checkEmbedding(file.path, word, tensor, tokens[0]) });
  }
  return inStoredOrder(file, tokens);
}

/** Tokens as the header lists them; as they stand in the file where it does not. */
function inStoredOrder(file: TensorFile, tokens: readonly EdLoraWord[]): readonly EdLoraWord[] {
  const stored = file.metadata.get(tokenOrderKey);
  if (stored === undefined) return tokens;
  let words: unknown;
  try {
    words = JSON.parse(stored);
  } catch (cause) {
    throw new FormatError(file.path, `${tokenOrderKey}: not valid JSON`, { cause });
  }
  const byWord = new Map<unknown, EdLoraWord>(tokens.map((token) => [token.word, token]));
  const ordered = Array.isArray(words) ? words.flatMap((word: unknown) => byWord.get(word) ?? []) : [];
  if (!Array.isArray(words) || words.length !== tokens.length || new Set(ordered).size !== tokens.length) {
    throw new FormatError(
      file.path,
      `${tokenOrderKey}: expected each of the file's words once, got ${excerpt(stored)}`,
    );
  }
  return ordered;
}

/** An embedding as [L, D], equal in size to the first one's. A single row may be stored as [D]. */
function checkEmbedding(
  file: string,
  word: string,
  tensor: RawTensor,
  first: EdLoraWord | undefined,
): RawTensor {
  const fail = (expected: string): FormatError =>
    new FormatError(
      file,
      `embedding of ${word}: expected ${expected}, got ${tensor.dtype} [${tensor.shape.join(', ')}]`,
      { tensor: tensor.name },
    );
  if (!isFloatDType(tensor.dtype)) throw fail('floating point numbers');
  if (tensor.shape.length > 2 || elementCount(tensor.shape) === 0 || tensor.shape.length === 0) {
    throw fail('[layers, width], one row per cross-attention layer,');
  }
  const embedding = embeddingRows(file, word, tensor);
  if (first !== undefined) {
    const [layers, width] = first.embedding.shape;
    if (embedding.shape[0] !== layers || embedding.shape[1] !== width) {
      throw fail(`[${layers}, ${width}] as that of ${first.word}`);
    }
  }
  return embedding;
}

const isWord = (name: string): boolean => edLoraWord(name.replace(params, '')) !== null;

const reader: SchemeReader = {
  name: 'ed-lora',
  examples: ['unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_down.weight'],
  recognises: (file) =>
    [...file.tensors.keys()].filter((name) => isWord(name) || isEdLoraName(name.replace(params, ''))).length,
  read: (file, { architecture }) => {
    const words = orderedWords(file).map(({ word, embedding }) => ({
      word,
      embedding,
      rows: embedding.shape[0]! > 1 ? ('layers' as const) : ('tokens' as const),
      encoder: 'text_encoder' as const,
    }));
    const factors = [...file.tensors.values()].filter(({ name }) => !isWord(name));
    const context = { architecture };
    const layers = collectAdapterLayers(file.path, factors, {
      architecture,
      parse: (name) => parseAdapterName(name.replace(params, ''), context),
      // Mix-of-Show stores no alpha and divides by nothing; other programs that use these names do store one.
      scale: (_, rank, alpha) => (alpha ?? rank) / rank,
    });
    return { ...layers, words };
  },
};

const key: FactorKey = ({ component, layerName }, part) =>
  `${component}.${edLoraKey({ component: 'unet', layerName }, part)}`;

export const edLora: Scheme = {
  name: 'ed-lora',
  title: 'ED-LoRA (Mix-of-Show): .pth, or the same names in safetensors',
  reader,
  folder: false,
  alpha: 'none',
  anyKind: false,
  words: 'layers',
  secondEncoder: false,
  loses: 'convolutions larger than 1 × 1; alpha (folded into the factors); .pth: the header',
  refuses: (layer, architecture) => {
    const { kernel } = layer;
    if (kernel !== null && kernelArea(kernel) > 1) return `a ${kernel.join('×')} convolution`;
    return refusedByFamily('ED-LoRA', architecture, layer.component);
  },
  key,
  encode: (output, stored, { target }) => {
    const layers = stored as readonly LoraLayer[];
    const words = layerWiseWords(output.words);
    const factors = layers.flatMap((layer) => factorTensors(layer, key, output.architecture));
    const tensors = [
      ...words.map(({ word, embedding }) => renamed(embedding, edLoraEmbeddingKey(word))),
      ...factors,
    ];
    const order = { [tokenOrderKey]: JSON.stringify(words.map(({ word }) => word)) };
    if (!isTorchName(target)) {
      return [{ place: '', tensors, header: { ...describe(output), format: 'pt', ...order }, layers, words }];
    }
    const dictionary = (component: AdapterComponent) =>
      new Map(
        factors
          .filter(({ name }) => name.startsWith(`${component}.`))
          .map((tensor) => [tensor.name.slice(component.length + 1), torchTensor(tensor)]),
      );
    const inner = new Map([
      ['new_concept_embedding', new Map(words.map(({ word, embedding }) => [word, torchTensor(embedding)]))],
      ['text_encoder', dictionary('text_encoder')],
      ['unet', dictionary('unet')],
    ]);
    return [{ place: '', tensors, header: {}, torch: new Map([['params', inner]]), layers, words }];
  },
};
