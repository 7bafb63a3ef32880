/** Embeddings in the forms that files of layers want: one vector per token, one per cross-attention layer, bundled. */
import { memoryTensor, type RawTensor, readBytes, renamed, sliceRows } from '../formats/raw-tensor.ts';
import type { AdapterWord } from './adapter.ts';
import { ENCODER_KEYS, XTI_KEYS } from './schemes/textual-inversion.ts';

/** A word of n tokens as n words: `<w>`, `<w>_1`, …, as diffusers numbers them. One row each, [1, D]. */
export function spreadTokens(words: readonly AdapterWord[]): AdapterWord[] {
  return words.flatMap((word) => {
    const count = word.embedding.shape[0]!;
    if (word.rows === 'layers' || count === 1) return [word];
    return Array.from({ length: count }, (_, i) => ({
      ...word,
      word: i === 0 ? word.word : `${word.word}_${i}`,
      embedding: sliceRows(word.embedding, i, 1),
    }));
  });
}

/**
 * Every word with one row per cross-attention layer, [L, D]; a single vector serves all layers. Programs that know one text
 * encoder want sixteen rows; a word of several stays a single one, which is read so.
 */
export function layerWiseWords(words: readonly AdapterWord[]): AdapterWord[] {
  const single = words.every(({ encoder }) => encoder === 'text_encoder');
  return spreadTokens(words).map((own) =>
    own.rows === 'layers'
      ? own
      : {
          ...own,
          rows: 'layers',
          embedding: single ? repeated(own.embedding, XTI_KEYS.length) : own.embedding,
        },
  );
}

function repeated(row: RawTensor, count: number): RawTensor {
  const bytes = readBytes(row);
  const all = new Uint8Array(bytes.length * count);
  for (let i = 0; i < count; i++) all.set(bytes, i * bytes.length);
  return memoryTensor(row.name, row.dtype, [count, row.shape[1]!], all);
}

/**
 * Embeddings inside a LoRA file, as A1111 loads them. Where there are several text encoders, each vector says whose it is:
 * ComfyUI hands `string_to_param` to whichever asks.
 * @param encoders how many text encoders the family has
 */
export function bundledTensors(words: readonly AdapterWord[], encoders: number): RawTensor[] {
  return words.map(({ word, embedding, encoder }) => {
    const part = encoders > 1 || encoder === 'text_encoder_2' ? ENCODER_KEYS[encoder] : 'string_to_param.*';
    return renamed(embedding, `bundle_emb.${word}.${part}`);
  });
}

/** Whether a file of embeddings or ED-LoRA is written in PyTorch's format, which has no header. */
export function isTorchName(file: string): boolean {
  return /\.(pth|pt|bin)$/.test(file);
}
