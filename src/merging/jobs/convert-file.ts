/** Converting a file into another scheme. */

import type { Adapter } from '../../adapters/adapter.ts';
import type { FactorDType } from '../../adapters/encode-layer.ts';
import { formatFor, type ProgramName, unreadBy } from '../../adapters/programs.ts';
import { loadAdapter } from '../../adapters/read.ts';
import type { LayerFormat } from '../../adapters/schemes/index.ts';
import {
  notesOnWords,
  type WordFormat,
  wordFormats,
  wordsUnsupportedBy,
  writeWords,
} from '../../adapters/words.ts';
import { checkAdapterTarget, filesOfAdapters, refuseLoss } from '../../adapters/write.ts';
import { UsageError } from '../../errors.ts';
import * as path from '../../io/platform/paths.ts';
import { Pace } from '../../pace.ts';
import type { SubjectProgress } from '../../progress.ts';
import { GraphMatmulEngine } from '../../runtime/matmul-engine.ts';
import { type ConvertedLayer, convertAdapter } from '../convert.ts';
import { unusableOf } from '../merge.ts';
import { describeJob, inheritedMetadata, lastingEntries } from '../provenance.ts';
import { baseOf, describeSingle, filesOfInputs, listed, nameOf } from './inputs.ts';
import { finish, type JobResult, labelsUnsupportedBy, type TargetOptions } from './target.ts';

export interface ConvertFileOptions extends TargetOptions {
  readonly input: string;
  /** Default: what `program` reads. */
  readonly format?: LayerFormat | WordFormat;
  /** What the file is for: picks the scheme, and the notes say what that program does not read. */
  readonly program?: ProgramName;
  /** See `convertAdapter`. */
  readonly rank?: number | null;
  readonly dtype?: FactorDType;
  readonly base?: string;
  /** Of a file with several words, the one to write. */
  readonly word?: string;
  /** Told of each layer. */
  readonly onProgress?: (progress: SubjectProgress) => void;
}

export function isWordFormat(format: string): format is WordFormat {
  return (wordFormats as readonly string[]).includes(format);
}

/** The scheme that is asked for. @throws {UsageError} unless by one of the two */
function formatOf({ format, program }: ConvertFileOptions, adapter: Adapter): LayerFormat | WordFormat {
  if ((format === undefined) === (program === undefined)) {
    throw new UsageError('expected either `format` or `program`');
  }
  if (format !== undefined) return format;
  return formatFor(program!, { ...adapter, layers: adapter.layers.values() });
}

/** Convert one file. @throws as `convertAdapter`, `refuseLoss` and the writers */
export async function convertFile(
  options: ConvertFileOptions,
): Promise<JobResult & { converted: readonly ConvertedLayer[]; from: Adapter['scheme'] }> {
  const { input, out, program, rank = null, dtype, base: location, force = false, drop = false } = options;
  options.signal?.throwIfAborted();
  const loaded = await loadAdapter(input);
  const adapter = options.word === undefined ? loaded : withOneWord(loaded, options.word);
  const format = formatOf(options, adapter);
  checkAdapterTarget(out, format, { inputs: [...filesOfAdapters([adapter]), ...listed(location)], force });
  const unusable = unusableOf([adapter]);
  refuseLoss(out, unusable, drop);
  // ED-LoRA is both: a file of layers with words, or, without any layer, one of words.
  if (isWordFormat(format) && (format !== 'ed-lora' || adapter.layers.size === 0)) {
    const layers = [...adapter.layers.keys()].map((name) => ({
      name,
      reason: `${format} files hold embeddings only`,
    }));
    const dropped = [
      ...unusable,
      ...labelsUnsupportedBy(options, format, [adapter]),
      ...wordsUnsupportedBy(out, format, adapter.words),
      ...layers,
    ];
    refuseLoss(out, dropped, drop);
    const metadata = options.noMetadata
      ? {}
      : Object.fromEntries(lastingEntries(adapter).map((key) => [key, adapter.metadata.get(key)!]));
    await writeWords(out, format, adapter.words, metadata, new Pace(options.signal));
    const lost = new Set(dropped.map(({ name }) => name));
    const held = adapter.words.filter(({ word }) => !lost.has(word));
    const words = held.map(({ word }) => word);
    const notes = notesOnWords(format, held);
    return { out: path.resolve(out), layers: 0, words, dropped, notes, converted: [], from: adapter.scheme };
  }
  const scheme = format as LayerFormat;
  const base = await baseOf(location);
  const described = describeSingle(adapter, base?.model);
  const read = filesOfInputs(described, options.signal);
  const engine = new GraphMatmulEngine({ threads: options.threads, signal: options.signal });
  const { output, converted } = await convertAdapter(adapter, scheme, {
    rank,
    engine: engine.multiply,
    dtype,
    ...(base === null ? {} : { base: base.weights }),
    onProgress: options.onProgress,
    signal: options.signal,
  }).finally(() => engine.dispose());
  const unsupported = [...unusable, ...labelsUnsupportedBy(options, scheme, [adapter])];
  const result = await finish(output, scheme, unsupported, options, async () => {
    const recipe = await describeJob(
      'convert',
      out,
      described,
      {
        format,
        rank,
        dtype: dtype ?? null,
        base: nameOf(base, out),
        drop,
        word: options.word ?? null,
      },
      read.hashes(),
    );
    return inheritedMetadata(recipe, adapter);
  });
  const unread = program === undefined ? [] : unreadBy(program, output);
  return { ...result, notes: [...result.notes, ...unread], converted, from: adapter.scheme };
}

/** @throws {UsageError} if the file has no such word */
function withOneWord(adapter: Adapter, word: string): Adapter {
  const words = adapter.words.filter((entry) => entry.word === word);
  if (words.length === 0) {
    throw new UsageError(
      `${adapter.path}: no word ${word}; it has ${adapter.words.map((entry) => entry.word).join(', ') || 'none'}`,
    );
  }
  return { ...adapter, words };
}
