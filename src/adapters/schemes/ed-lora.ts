/**
 * ED-LoRA files: Mix-of-Show's `.pth`, `{'params': {'new_concept_embedding', 'text_encoder', 'unet'}}`, with or
 * without the `params` level, and the same flattened into safetensors; with `new_concept_embedding_2` and `text_encoder_2`
 * where the base has a second text encoder, which Mix-of-Show does not know. Factors apply as up · down: no alpha is stored
 * and nothing is divided by the rank.
 * Source: TencentARC/Mix-of-Show@51270fd, mixofshow/pipelines/trainer_edlora.py (delta_state_dict).
 */
import { FormatError } from '../../errors.ts';
import { isFloatDType } from '../../formats/dtype.ts';
import { excerpt } from '../../formats/excerpt.ts';
import { elementCount, type RawTensor, renamed } from '../../formats/raw-tensor.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import type { TorchValue } from '../../formats/torch-value.ts';
import { torchTensor } from '../../formats/torch-writer.ts';
import { componentsOf, refusedByFamily } from '../../models/families/adapter-layers.ts';
import { type AdapterComponent, type AdapterWord, kernelArea, type LoraLayer } from '../adapter.ts';
import { collectAdapterLayers } from '../layer-parts.ts';
import { isTorchName, layerWiseWords } from '../word-forms.ts';
import { describe } from './describe.ts';
import {
  EMBEDDING_LEVELS,
  edLoraEmbeddingKey,
  edLoraKey,
  edLoraWord,
  isEdLoraName,
} from './ed-lora-names.ts';
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

/** A word with what one text encoder reads of it. */
export type EdLoraWord = Pick<AdapterWord, 'word' | 'embedding' | 'encoder'>;

/**
 * The words of a file and their embeddings [L, D] or [1, D], in the order that the file means.
 * @throws {FormatError} on embeddings that are no [L, D] of one size
 */
export function orderedWords(file: TensorFile): readonly EdLoraWord[] {
  const words: EdLoraWord[] = [];
  for (const tensor of file.tensors.values()) {
    const own = edLoraWord(tensor.name.replace(params, ''));
    if (own === null) continue;
    const first = words.find(({ encoder }) => encoder === own.encoder);
    words.push({ ...own, embedding: checkEmbedding(file.path, own.word, tensor, first) });
  }
  return inStoredOrder(file, words);
}

/** Words as the header lists them; as they stand in the file where it does not. */
function inStoredOrder(file: TensorFile, all: readonly EdLoraWord[]): readonly EdLoraWord[] {
  const stored = file.metadata.get(tokenOrderKey);
  if (stored === undefined) return all;
  let order: unknown;
  try {
    order = JSON.parse(stored);
  } catch (cause) {
    throw new FormatError(file.path, `${tokenOrderKey}: not valid JSON`, { cause });
  }
  const byWord = new Map<unknown, EdLoraWord[]>();
  for (const own of all) byWord.set(own.word, [...(byWord.get(own.word) ?? []), own]);
  const ordered = Array.isArray(order) ? order.flatMap((word: unknown) => byWord.get(word) ?? []) : [];
  if (
    !Array.isArray(order) ||
    order.length !== byWord.size ||
    ordered.length !== all.length ||
    new Set(ordered).size !== all.length
  ) {
    throw new FormatError(
      file.path,
      `${tokenOrderKey}: expected each of the file's words once, got ${excerpt(stored)}`,
    );
  }
  return ordered;
}

/** An embedding as [L, D], equal in size to that of the encoder's first word. A single row may be stored as [D]. */
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
    const words = orderedWords(file).map((own) => ({
      ...own,
      rows: own.embedding.shape[0]! > 1 ? ('layers' as const) : ('tokens' as const),
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

/** Each word once, in their order. */
export function namesOf(words: readonly AdapterWord[]): string[] {
  return [...new Set(words.map(({ word }) => word))];
}

/** The dictionaries of embeddings in a `.pth`: the first always, the second where a word has vectors of it. */
export function embeddingLevels(words: readonly AdapterWord[]): [string, Map<string, TorchValue>][] {
  const levels = Object.entries(EMBEDDING_LEVELS).map(
    ([encoder, level]): [string, Map<string, TorchValue>] => {
      const own = words.filter((word) => word.encoder === encoder);
      return [level, new Map(own.map(({ word, embedding }) => [word, torchTensor(embedding)]))];
    },
  );
  return levels.filter(([level, { size }]) => level === EMBEDDING_LEVELS.text_encoder || size > 0);
}

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
  secondEncoder: true,
  loses: 'convolutions larger than 1 × 1; alpha (folded into the factors); .pth: the header',
  refuses: (layer, architecture) => {
    const { kernel } = layer;
    if (kernel !== null && kernelArea(kernel) > 1) return `a ${kernel.join('×')} convolution`;
    return refusedByFamily('ed-lora', architecture, layer.component);
  },
  key,
  encode: (output, stored, { target }) => {
    const layers = stored as readonly LoraLayer[];
    const words = layerWiseWords(output.words);
    const factors = layers.flatMap((layer) => factorTensors(layer, key, output.architecture));
    const tensors = [...words.map((word) => renamed(word.embedding, edLoraEmbeddingKey(word))), ...factors];
    const order = { [tokenOrderKey]: JSON.stringify(namesOf(words)) };
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
      ...embeddingLevels(words),
      ['text_encoder', dictionary('text_encoder')],
      ...(componentsOf(output.architecture).includes('text_encoder_2')
        ? ([['text_encoder_2', dictionary('text_encoder_2')]] as const)
        : []),
      ['unet', dictionary('unet')],
    ]);
    return [{ place: '', tensors, header: {}, torch: new Map([['params', inner]]), layers, words }];
  },
};
