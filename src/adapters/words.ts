/** Embeddings of words in the forms that files want: one vector per token, one per layer, bundled, or alone. */

import { UsageError } from '../errors.ts';
import { dtypeWidth } from '../formats/dtype.ts';
import { memoryTensor, type RawTensor, readBytes, renamed } from '../formats/raw-tensor.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import type { TorchValue } from '../formats/torch-value.ts';
import { torchTensor, writeTorchZip } from '../formats/torch-writer.ts';
import { Pace } from '../pace.ts';
import type { AdapterWord } from './adapter.ts';
import { refuseNonFinite } from './finite.ts';
import { refuseUnreadable } from './read-back.ts';
import { embeddingLevels, namesOf, tokenOrderKey } from './schemes/ed-lora.ts';
import { edLoraEmbeddingKey } from './schemes/ed-lora-names.ts';
import { ENCODER_KEYS, layerWiseHeader, XTI_KEYS } from './schemes/textual-inversion.ts';
import { unwrittenFile } from './unwritten-file.ts';
import { bundledTensors, isTorchName, layerWiseWords } from './word-forms.ts';
import type { UnsupportedEntry } from './write.ts';

export const wordFormats = [
  'diffusers-embedding',
  'a1111',
  'kohya-embedding',
  'sdxl-embedding',
  'bundle',
  'xti',
  'ed-lora',
] as const;

/** Forms of files that hold embeddings alone. */
export type WordFormat = (typeof wordFormats)[number];

/** The form in which words are embeddings that most programs read: of one text encoder, or of several. */
export function formOfWords(words: readonly AdapterWord[]): WordFormat {
  if (words.every(({ encoder }) => encoder === 'text_encoder')) return 'diffusers-embedding';
  return new Set(words.map(({ word }) => word)).size > 1 ? 'bundle' : 'sdxl-embedding';
}

/** What besides whole words a form cannot hold: their names, the header's entries. */
export function unsupportedLabels(
  file: string,
  format: string,
  { words, metadata }: { readonly words: readonly AdapterWord[]; readonly metadata: readonly string[] },
): UnsupportedEntry[] {
  const unsupported: UnsupportedEntry[] = [];
  if (format === 'xti' && words.length > 0) {
    unsupported.push({
      name: `names ${words.map(({ word }) => word).join(' ')}`,
      reason: 'xti files have 16 numbered keys and no names; readers call the words by the file',
    });
  }
  if (metadata.length > 0 && isTorchName(file) && (format === 'ed-lora' || isWordForm(format))) {
    const listed = metadata.slice(0, 4).join(', ') + (metadata.length > 4 ? ', …' : '');
    unsupported.push({ name: `header (${listed})`, reason: "PyTorch's files hold no header" });
  }
  return unsupported;
}

function isWordForm(format: string): boolean {
  return (wordFormats as readonly string[]).includes(format);
}

/** Forms with a place for vectors of the second text encoder. */
const SEVERAL_ENCODERS: ReadonlySet<WordFormat> = new Set(['sdxl-embedding', 'bundle', 'ed-lora']);

/** Forms whose header says which words have one vector per cross-attention layer. */
const SAID_IN_HEADER: ReadonlySet<WordFormat> = new Set(['diffusers-embedding', 'sdxl-embedding', 'bundle']);

/** Which words a form cannot hold. */
export function wordsUnsupportedBy(
  file: string,
  format: WordFormat,
  words: readonly AdapterWord[],
): UnsupportedEntry[] {
  return words.flatMap((entry) => {
    const reason = refusedBy(file, format, entry);
    return reason === null ? [] : [{ name: entry.word, reason }];
  });
}

function refusedBy(file: string, format: WordFormat, { rows, encoder }: AdapterWord): string | null {
  if (encoder === 'text_encoder_2' && !SEVERAL_ENCODERS.has(format))
    return 'a vector of the second text encoder';
  if (rows === 'tokens' || format === 'xti' || format === 'ed-lora') return null;
  if (!SAID_IN_HEADER.has(format))
    return 'one vector per cross-attention layer; the form holds one per token';
  return isTorchName(file)
    ? "one vector per cross-attention layer; PyTorch's files have no header that says so: write .safetensors"
    : null;
}

/**
 * What other programs make of a file's words, where that is less than what it holds.
 * @param format of a file of layers, or of one of words
 */
export function notesOnWords(format: string, words: readonly AdapterWord[]): string[] {
  const names = [...new Set(words.map(({ word }) => word))];
  if (names.length === 0) return [];
  if (format === 'kohya' || format === 'lycoris' || format === 'kohya-ldm') {
    const cut = names.filter((word) => word.includes('.')).map((word) => `${word} (${word.split('.')[0]})`);
    return [
      'words inside a LoRA file: A1111 reads them, ComfyUI and diffusers do not; a file of embeddings is for those',
      ...(cut.length === 0
        ? []
        : [`A1111 calls a word by what stands before its first dot: ${cut.join(', ')}`]),
    ];
  }
  if (!(SAID_IN_HEADER as ReadonlySet<string>).has(format)) return [];
  const notes: string[] = [];
  if (names.length > 1) {
    notes.push(
      `${names.length} words in one file: A1111 and diffusers refuse it, ComfyUI takes the first; \`word\` writes one`,
    );
  }
  const layerWise = words.find(({ rows }) => rows === 'layers');
  if (layerWise !== undefined) {
    const count = layerWise.embedding.shape[0]!;
    notes.push(
      `one vector per cross-attention layer: A1111, ComfyUI and diffusers read ${count} tokens in a row, if any`,
    );
  }
  return notes;
}

/**
 * Write embeddings alone: safetensors, or a torch file where the name ends in .pt, .pth or .bin.
 * @param metadata header entries beside the form's own; torch files hold none
 * @throws {UsageError} if the form holds one word and there are several
 * @throws {FormatError} if the file would not be read again as these words, or a number is not finite
 */
export async function writeWords(
  file: string,
  format: WordFormat,
  given: readonly AdapterWord[],
  metadata: Readonly<Record<string, string>> = {},
  pace: Pace = new Pace(),
): Promise<void> {
  const words = given.filter((entry) => refusedBy(file, format, entry) === null);
  if (words.length === 0) throw new UsageError(`${file}: no word is left to write`);
  await refuseNonFinite(
    words.map(({ embedding }) => embedding),
    pace,
  );
  const torch = isTorchName(file);
  /** @param held the words as their reader will find them */
  const write = (
    held: readonly AdapterWord[],
    tensors: readonly RawTensor[],
    own: Record<string, string> = {},
  ): Promise<void> => {
    const header = torch ? {} : { ...metadata, format: 'pt', ...own };
    refuseUnreadable(file, format, unwrittenFile(file, tensors, header), {
      layers: [],
      words: held,
      named: format !== 'xti' && !(torch && (format === 'kohya-embedding' || format === 'sdxl-embedding')),
    });
    return torch
      ? writeTorchZip(file, new Map(tensors.map((tensor) => [tensor.name, torchTensor(tensor)])), pace)
      : writeSafetensors(file, tensors, header, pace);
  };
  const single = (): AdapterWord => {
    if (new Set(words.map(({ word }) => word)).size > 1) {
      throw new UsageError(
        `${file}: ${format} holds one word, got ${words.map(({ word }) => word).join(', ')}; choose one with \`word\``,
      );
    }
    return words[0]!;
  };
  switch (format) {
    case 'diffusers-embedding':
      return write(
        words,
        words.map(({ word, embedding }) => renamed(embedding, word)),
        layerWiseHeader(words),
      );
    case 'kohya-embedding': {
      const { word, embedding } = single();
      return write(words, [renamed(embedding, 'emb_params')], { name: word });
    }
    case 'a1111': {
      const { word, embedding } = single();
      if (!torch) return write(words, [renamed(embedding, 'emb_params')], { name: word });
      const inside = unwrittenFile(
        file,
        [renamed(embedding, 'string_to_param.*')],
        {},
        new Map([['name', word]]),
      );
      refuseUnreadable(file, format, inside, { layers: [], words });
      return writeTorchZip(
        file,
        new Map<TorchValue, TorchValue>([
          ['string_to_token', new Map([['*', 265]])],
          ['string_to_param', new Map([['*', torchTensor(embedding)]])],
          ['name', word],
          ['step', 0],
          ['sd_checkpoint', null],
          ['sd_checkpoint_name', null],
        ]),
        pace,
      );
    }
    case 'sdxl-embedding': {
      single();
      return write(
        words,
        words.map(({ embedding, encoder }) => renamed(embedding, ENCODER_KEYS[encoder])),
        { name: words[0]!.word, ...layerWiseHeader(words) },
      );
    }
    case 'bundle':
      return write(words, bundledTensors(words, 2), layerWiseHeader(words));
    case 'xti': {
      const all = layerWiseWords(words);
      return write(all, xtiTensors(file, all));
    }
    case 'ed-lora': {
      const all = layerWiseWords(words);
      const tensors = all.map((word) => renamed(word.embedding, edLoraEmbeddingKey(word)));
      if (!torch) return write(all, tensors, { [tokenOrderKey]: JSON.stringify(namesOf(all)) });
      refuseUnreadable(file, format, unwrittenFile(file, tensors), { layers: [], words: all });
      return writeTorchZip(
        file,
        new Map([
          [
            'params',
            new Map<TorchValue, TorchValue>([
              ...embeddingLevels(all),
              ['text_encoder', new Map()],
              ['unet', new Map()],
            ]),
          ],
        ]),
        pace,
      );
    }
  }
}

/** n words of [L, D] as L tensors [n, D]. @throws {UsageError} if widths or dtypes differ, or L is not 16 */
function xtiTensors(file: string, words: readonly AdapterWord[]): RawTensor[] {
  const { dtype, shape } = words[0]!.embedding;
  for (const { word, embedding } of words) {
    if (
      embedding.shape[0] !== XTI_KEYS.length ||
      embedding.shape[1] !== shape[1] ||
      embedding.dtype !== dtype
    ) {
      throw new UsageError(
        `${file}: ${word}: expected ${dtype} [${XTI_KEYS.length}, ${shape[1]}], got ${embedding.dtype} [${embedding.shape.join(', ')}]`,
      );
    }
  }
  const rowBytes = shape[1]! * dtypeWidth(dtype);
  const bytes = words.map(({ embedding }) => readBytes(embedding));
  return XTI_KEYS.map((key, layer) => {
    const rows = new Uint8Array(words.length * rowBytes);
    bytes.forEach((own, i) => {
      rows.set(own.subarray(layer * rowBytes, (layer + 1) * rowBytes), i * rowBytes);
    });
    return memoryTensor(key, dtype, [words.length, shape[1]!], rows);
  });
}
