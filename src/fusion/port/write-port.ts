/** A portable concept as files: the LoRA, one embedding file per word, both in one file, and how each program calls them. */
import { statSync } from 'node:fs';
import path from 'node:path';
import type { AdapterWord } from '../../adapters/adapter.ts';
import { encodeLayer } from '../../adapters/encode-layer.ts';
import type { LayerFormat } from '../../adapters/schemes/index.ts';
import type { OutputAdapter } from '../../adapters/schemes/scheme.ts';
import { formOfWords, writeWords } from '../../adapters/words.ts';
import { writeAdapter } from '../../adapters/write.ts';
import { wordsOf } from '../../concepts/concept-words.ts';
import { writeFileAtomically } from '../../io/replace-file.ts';
import { stagedInto } from '../../io/staging.ts';
import { checkFileTarget, checkFolderTarget, checkResultsFolder } from '../../io/targets.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { ClipTokenizer } from '../../models/clip/tokenizer.ts';
import { familyOfAdapters } from '../../models/families/families.ts';
import { Pace } from '../../pace.ts';
import { toolVersion } from '../../package-root.ts';
import { visible } from '../../visible.ts';
import type { WrittenFile } from '../output.ts';
import type { Port } from './port.ts';

export interface WritePortOptions {
  /** Names of the LoRA's keys. Default `kohya`. */
  readonly format?: LayerFormat;
  /** Files that were read, which are never replaced. Default none. */
  readonly inputs?: readonly string[];
  /** Write into a folder that is not empty, replacing files of the same names. Default false. */
  readonly force?: boolean;
  /** Stops between two files by throwing its reason; what stood in the folder stays as it was. */
  readonly signal?: AbortSignal;
}

/** The second file is for programs that read words inside of a LoRA. */
const [LORA, WITH_WORDS, README] = ['lora.safetensors', 'lora-with-words.safetensors', 'README.md'] as const;

/** Names of the files, LoRA first. */
export function portFiles(words: readonly string[], format: LayerFormat): string[] {
  return [
    format === 'peft' ? 'lora' : LORA,
    WITH_WORDS,
    ...words.map((word) => `${word}.safetensors`),
    README,
  ];
}

/**
 * What other programs call the words: without the brackets, which no file's name can have everywhere, and with a number where the
 * base's vocabulary has the word already.
 */
export function portableWords(words: readonly string[], tokenizer: ClipTokenizer): Map<string, string> {
  const taken = new Set<string>();
  const isFree = (word: string): boolean =>
    !taken.has(word.toLowerCase()) && tokenizer.tokenId(`${word.toLowerCase()}</w>`) === undefined;
  return new Map(
    words.map((word) => {
      const bare = word.replace(/[^\p{L}\p{N}_-]/gu, '') || 'word';
      let name = bare;
      for (let n = 1; !isFree(name); n++) name = `${bare}${n}`;
      taken.add(name.toLowerCase());
      return [word, name];
    }),
  );
}

/**
 * Check that a portable concept may be written into a folder; do this before the work.
 * @throws {UsageError} if the folder is a file, holds something and `force` is off, or a file to be written is an input
 */
export function checkPortTarget(
  folder: string,
  words: readonly string[],
  { format = 'kohya', inputs = [], force = false }: WritePortOptions = {},
): void {
  checkResultsFolder(folder, force);
  for (const name of portFiles(words, format)) {
    const place = path.join(folder, name);
    if (name === 'lora') checkFolderTarget(place, { inputs, force });
    else checkFileTarget(place, { inputs, force });
  }
}

/**
 * Write the files; all of them are made before the first takes its place.
 * @throws {UsageError} as `checkPortTarget`; {NumericalError} if a number is too large for float32
 */
export async function writePort(
  base: Checkpoint,
  port: Port,
  names: readonly string[],
  folder: string,
  options: WritePortOptions = {},
): Promise<{ folder: string; files: WrittenFile[]; words: ReadonlyMap<string, string> }> {
  const { format = 'kohya', signal } = options;
  const tokens = port.concepts.flatMap((concept) => concept.tokens);
  const called = portableWords(
    tokens.map(({ word }) => word),
    base.tokenizer,
  );
  checkPortTarget(folder, [...called.values()], options);
  const target = path.resolve(folder);
  const words = wordsOf(tokens).map((own) => ({ ...own, word: called.get(own.word)! }));
  const prompts = names.map((name) => renamedIn(name, called));
  const output: OutputAdapter = {
    architecture: familyOfAdapters(base.family).name,
    layers: [...port.deltas].map(([id, delta]) => {
      const { component, layerName, kernel } = base.parts.layers.get(id)!;
      const module = { component: component as AdapterWord['encoder'] | 'unet', layerName };
      return encodeLayer(module, kernel, delta, 'F32');
    }),
    words: [],
    title: prompts.join(' + '),
    metadata: { 'edlora.port': JSON.stringify({ edlora: toolVersion(), words: Object.fromEntries(called) }) },
  };
  const what = new Map<string, string>();
  await stagedInto(target, async (staging) => {
    const pace = new Pace(signal);
    const lora = format === 'peft' ? 'lora' : LORA;
    await writeAdapter(path.join(staging, lora), format, output, pace);
    what.set(lora, `LoRA (${format} names)`);
    await writeAdapter(path.join(staging, WITH_WORDS), 'kohya', { ...output, words }, pace);
    what.set(WITH_WORDS, 'the same with its words inside: for A1111');
    for (const word of called.values()) {
      const file = `${word}.safetensors`;
      const own = words.filter((entry) => entry.word === word);
      await writeWords(path.join(staging, file), formOfWords(own), own, {}, pace);
      what.set(file, 'embedding of the word, one vector');
    }
    await writeFileAtomically(path.join(staging, README), [
      usage(lora, prompts, [...called.values()], base.parts.textEncoders.size > 1),
    ]);
    what.set(README, 'how each program calls them');
    signal?.throwIfAborted();
  });
  const files = [...what].map(([name, text]): WrittenFile => {
    const file = path.join(target, name);
    return { path: file, sizeBytes: statSync(file).size, what: text };
  });
  return { folder: target, files, words: called };
}

/** A concept's name with its words as other programs call them. */
function renamedIn(name: string, called: ReadonlyMap<string, string>): string {
  return name
    .split(' ')
    .map((word) => called.get(word) ?? word)
    .join(' ');
}

/** @param halves whether the base has two text encoders, each with a vector of its own */
function usage(lora: string, prompts: readonly string[], words: readonly string[], halves: boolean): string {
  const calls = prompts.map((prompt) => visible(prompt));
  const files = words.map((word) => `\`${visible(word)}.safetensors\``).join(', ');
  return `# ${calls.join(' + ')}

Call ${calls.length === 1 ? 'it' : 'them'} in prompts as ${calls.map((prompt) => `**${prompt}**`).join(', ')}, e.g. "photo of a ${calls[0]}".
Two things belong together: \`${lora}\` at strength 1, and one embedding per word (${files}).

- **ComfyUI**: \`${lora}\` into \`models/loras\`, the embeddings into \`models/embeddings\`. Load LoRA (model and clip 1); in the
  prompt: ${words.map((word) => `\`embedding:${visible(word)}\``).join(' ')}.
- **AUTOMATIC1111, Forge**: \`${WITH_WORDS}\` into \`models/Lora\`, then \`<lora:lora-with-words:1>\` and the words in the prompt; or
  \`${lora}\` there and the embeddings into \`embeddings\`.
- **diffusers**: \`pipeline.load_lora_weights("${lora}")\`, then for each word
  ${inDiffusers(visible(words[0]!), halves)}.
- **edlora**: \`edlora sample --loras ${lora} --embeddings ${words.map((word) => `${visible(word)}.safetensors`).join(' ')}\`.
`;
}

function inDiffusers(word: string, halves: boolean): string {
  if (!halves) return `\`pipeline.load_textual_inversion("${word}.safetensors", token="${word}")\``;
  const half = (key: string, end: string): string =>
    `\`pipeline.load_textual_inversion(state["${key}"], token="${word}", text_encoder=pipeline.text_encoder${end}, tokenizer=pipeline.tokenizer${end})\``;
  return `\`state = safetensors.torch.load_file("${word}.safetensors")\`, ${half('clip_l', '')} and ${half('clip_g', '_2')}`;
}
