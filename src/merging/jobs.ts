/**
 * Whole jobs, from files to files: what the commands call and what a recipe can repeat. Every job checks its target,
 * names what would be lost, writes whole files or none, and leaves its recipe in the result.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Adapter } from '../adapters/adapter.ts';
import type { BaseWeights } from '../adapters/delta.ts';
import type { FactorDType } from '../adapters/encode-layer.ts';
import { loadAdapter } from '../adapters/read.ts';
import type { LayerFormat } from '../adapters/schemes/index.ts';
import { unheldLabels, type WordFormat, wordFormats, wordsUnheldBy, writeWords } from '../adapters/words.ts';
import {
  checkAdapterTarget,
  filesOfAdapters,
  type OutputAdapter,
  refuseLoss,
  type Unheld,
  unheldBy,
  writeAdapter,
} from '../adapters/write.ts';
import { UsageError } from '../errors.ts';
import { InputFiles } from '../formats/input-files.ts';
import { recordedPath } from '../io/recorded-path.ts';
import { checkFileTarget, checkFolderTarget } from '../io/targets.ts';
import { Pace } from '../pace.ts';
import { GraphMatmulEngine } from '../runtime/matmul-engine.ts';
import { bakeModel, planBake } from './bake.ts';
import { parseBlockWeights } from './block-weights.ts';
import { type ConvertedLayer, convertAdapter } from './convert.ts';
import { type ExtractedLayer, type ExtractOptions, extractAdapter } from './extract.ts';
import type { RankRule } from './kept-rank.ts';
import { type MergeInput, type MergeOptions, mergeAdapters, type RenamedWord, unusableOf } from './merge.ts';
import type { MajoritySign, MergeMethodName } from './method.ts';
import { baseWeightsOf, type ModelFiles, openModelFiles } from './model-files.ts';
import {
  describeJob,
  inheritedMetadata,
  lastingEntries,
  type MergeRecipe,
  mergedMetadata,
  recipeKey,
} from './provenance.ts';
import { type ResizedReport, resizeAdapter } from './resize-adapter.ts';

/** What every job may be told about its result. */
export interface TargetOptions {
  /** File, or folder for PEFT and baked diffusers models. */
  readonly out: string;
  /** Leave out what cannot be held. Default false. */
  readonly drop?: boolean;
  /** Replace an existing target. Default false. */
  readonly force?: boolean;
  /** Write no recipe and no inherited header. Default false. */
  readonly noMetadata?: boolean;
  /** Ends the job at its next step, once it is aborted: its reason is thrown, and nothing is left behind. */
  readonly signal?: AbortSignal;
}

/** `{ signal }` if there is one. */
const endedBy = (signal: AbortSignal | undefined): { signal?: AbortSignal } =>
  signal === undefined ? {} : { signal };

/** One adapter and how much of it. */
export interface StrengthOptions {
  readonly path: string;
  readonly strength: number;
  /** `null`: as `strength`. */
  readonly textEncoderStrength: number | null;
  /** As `parseBlockWeights` reads it; `null`: none. */
  readonly blockWeights: string | null;
}

export interface JobResult {
  /** Absolute path of what was written. */
  readonly out: string;
  readonly layers: number;
  readonly words: readonly string[];
  /** What was left out because `drop` said so. */
  readonly dropped: readonly Unheld[];
}

/** Open adapters with their strengths. @throws as `loadAdapter` and `parseBlockWeights` */
export async function loadMergeInputs(inputs: readonly StrengthOptions[]): Promise<MergeInput[]> {
  return Promise.all(
    inputs.map(async ({ path: file, strength, textEncoderStrength, blockWeights }) => {
      const adapter = await loadAdapter(file);
      return {
        adapter,
        strength,
        ...(textEncoderStrength === null ? {} : { textEncoderStrength }),
        ...(blockWeights === null
          ? {}
          : { blockWeights: parseBlockWeights(blockWeights, adapter.architecture) }),
      };
    }),
  );
}

async function baseOf(
  location: string | undefined,
): Promise<{ model: ModelFiles; weights: BaseWeights } | null> {
  if (location === undefined) return null;
  const model = await openModelFiles(location);
  return { model, weights: baseWeightsOf(model) };
}

/** A base as recipes name it. */
const nameOf = (base: { readonly model: ModelFiles } | null, out: string): string | null =>
  base === null ? null : recordedPath(base.model.path, path.dirname(path.resolve(out)));

const listed = (location: string | undefined): string[] => (location === undefined ? [] : [location]);

const describeModel = (model: ModelFiles) => ({
  path: model.path,
  files: [...new Set(model.parts.flatMap(({ file }) => [...filesOf(file.path, file.tensors.values())]))],
});

/** A weight file, or the shards that its tensors lie in. */
function filesOf(
  file: string,
  tensors: Iterable<{ storage: { range: { file: string } | null } }>,
): Set<string> {
  const files = new Set([file]);
  for (const { storage } of tensors) if (storage.range !== null) files.add(storage.range.file);
  return files;
}

/** Names of words and header entries that the target cannot hold; a header that is not wanted is not missed. */
function labelsUnheldBy(
  { out, noMetadata = false }: TargetOptions,
  format: string,
  adapters: readonly Adapter[],
): Unheld[] {
  return unheldLabels(out, format, {
    words: adapters.flatMap(({ words }) => words),
    metadata: noMetadata ? [] : adapters.flatMap(lastingEntries),
  });
}

async function finish(
  output: OutputAdapter,
  format: LayerFormat,
  unusable: readonly Unheld[],
  target: TargetOptions,
  metadata: () => Promise<Record<string, string>>,
): Promise<JobResult> {
  const { out, drop = false, noMetadata = false } = target;
  const dropped = [...unusable, ...unheldBy(format, output)];
  refuseLoss(out, dropped, drop);
  const titled = { ...output, title: path.parse(out).name };
  const { mergedFrom, ...bare } = titled;
  const described = noMetadata ? bare : { ...titled, metadata: await metadata() };
  await writeAdapter(out, format, described, new Pace(target.signal));
  const lost = new Set(dropped.map(({ name }) => name));
  return {
    out: path.resolve(out),
    layers: output.layers.filter(({ component, layerName }) => !lost.has(`${component}:${layerName}`)).length,
    words: output.words.map(({ word }) => word).filter((word) => !lost.has(word)),
    dropped,
  };
}

export interface MergeFilesOptions extends TargetOptions {
  readonly inputs: readonly StrengthOptions[];
  /** Default `kohya`. */
  readonly format?: LayerFormat;
  readonly method?: MergeMethodName;
  readonly rank?: number | null;
  readonly density?: number;
  readonly majoritySign?: MajoritySign;
  readonly dtype?: FactorDType;
  readonly seed?: number;
  /** Model that the adapters were trained on, for kinds that need it. */
  readonly base?: string;
  readonly onLayer?: MergeOptions['onLayer'];
}

/** Merge files into one. @throws as `mergeAdapters`, `refuseLoss` and `writeAdapter` */
export async function mergeFiles(
  options: MergeFilesOptions,
): Promise<JobResult & { renamed: readonly RenamedWord[] }> {
  const { inputs: given, out, format = 'kohya', force = false, base: location, onLayer } = options;
  options.signal?.throwIfAborted();
  const inputs = await loadMergeInputs(given);
  const adapters = inputs.map(({ adapter }) => adapter);
  checkAdapterTarget(out, format, { inputs: [...filesOfAdapters(adapters), ...listed(location)], force });
  refuseLoss(out, unusableOf(adapters), options.drop ?? false);
  const base = await baseOf(location);
  const { method = 'cat', rank = null, density, majoritySign, dtype = 'F32', seed = 0 } = options;
  const settings = {
    method,
    rank,
    dtype,
    seed,
    density,
    majoritySign,
  };
  const described = describeInputs(adapters, given, base?.model);
  // Hashed beside the work, and no longer than that; a failure is reported when the hashes are asked for.
  const over = new AbortController();
  const ended = AbortSignal.any([over.signal, ...(options.signal === undefined ? [] : [options.signal])]);
  const hashing = options.noMetadata ? null : filesOfInputs(described, ended).hashes();
  hashing?.catch(() => undefined);
  const engine = new GraphMatmulEngine();
  try {
    const { output, renamed } = await mergeAdapters(inputs, {
      ...settings,
      engine: engine.multiply,
      ...(base === null ? {} : { base: base.weights }),
      onLayer,
      ...endedBy(options.signal),
    });
    const result = await finish(
      output,
      format,
      [...unusableOf(adapters), ...labelsUnheldBy(options, format, adapters)],
      options,
      async () => {
        const folder = path.dirname(path.resolve(out));
        const resolved = {
          ...settings,
          format,
          base: nameOf(base, out),
          drop: options.drop ?? false,
          renamed: renamed.map((word) => ({ ...word, path: recordedPath(word.path, folder) })),
        };
        const recipe = await describeJob('merge', out, described, resolved, hashing ?? undefined);
        return mergedMetadata(recipe, adapters);
      },
    );
    return { ...result, renamed };
  } finally {
    over.abort();
    await engine.dispose();
  }
}

/** The files of a job as they are when it begins: what is hashed at its end must be what was read. */
function filesOfInputs(
  inputs: readonly { readonly files: readonly string[] }[],
  signal?: AbortSignal,
): InputFiles {
  return new InputFiles(signal).add(inputs.flatMap(({ files }) => files));
}

function describeInputs(
  adapters: readonly Adapter[],
  given: readonly StrengthOptions[],
  base: ModelFiles | undefined,
): { path: string; files: readonly string[]; settings?: Readonly<Record<string, unknown>> }[] {
  return [
    ...adapters.map(({ path: own, files }, i) => {
      const { path: _, ...settings } = given[i]!;
      return { path: own, files, settings };
    }),
    ...(base === undefined ? [] : [{ ...describeModel(base), settings: { role: 'base' } }]),
  ];
}

export interface ConvertFileOptions extends TargetOptions {
  readonly input: string;
  readonly format: LayerFormat | WordFormat;
  /** See `convertAdapter`. */
  readonly rank?: number | null;
  readonly dtype?: FactorDType;
  readonly base?: string;
  /** Of a file with several words, the one to write. */
  readonly word?: string;
  /** Called after each layer. */
  readonly onLayer?: (done: number, total: number, id: string) => void;
}

export function isWordFormat(format: string): format is WordFormat {
  return (wordFormats as readonly string[]).includes(format);
}

/** Convert one file. @throws as `convertAdapter`, `refuseLoss` and the writers */
export async function convertFile(
  options: ConvertFileOptions,
): Promise<JobResult & { converted: readonly ConvertedLayer[]; from: Adapter['scheme'] }> {
  const { input, out, format, rank = null, dtype, base: location, force = false, drop = false } = options;
  options.signal?.throwIfAborted();
  const loaded = await loadAdapter(input);
  const adapter = options.word === undefined ? loaded : withOneWord(loaded, options.word);
  checkAdapterTarget(out, format, { inputs: [...filesOfAdapters([adapter]), ...listed(location)], force });
  const unusable = unusableOf([adapter]);
  // ED-LoRA is both: a file of layers with words, or, without any layer, one of words.
  if (isWordFormat(format) && (format !== 'ed-lora' || adapter.layers.size === 0)) {
    const layers = [...adapter.layers.keys()].map((name) => ({
      name,
      reason: `${format} files hold embeddings only`,
    }));
    const dropped = [
      ...unusable,
      ...labelsUnheldBy(options, format, [adapter]),
      ...wordsUnheldBy(format, adapter.words),
      ...layers,
    ];
    refuseLoss(out, dropped, drop);
    const metadata = options.noMetadata
      ? {}
      : Object.fromEntries(lastingEntries(adapter).map((key) => [key, adapter.metadata.get(key)!]));
    await writeWords(out, format, adapter.words, metadata, new Pace(options.signal));
    const lost = new Set(dropped.map(({ name }) => name));
    const words = adapter.words.map(({ word }) => word).filter((word) => !lost.has(word));
    return { out: path.resolve(out), layers: 0, words, dropped, converted: [], from: adapter.scheme };
  }
  const scheme = format as LayerFormat;
  const base = await baseOf(location);
  const described = describeSingle(adapter, base?.model);
  const read = filesOfInputs(described, options.signal);
  const engine = new GraphMatmulEngine();
  const { output, converted } = await convertAdapter(adapter, scheme, {
    rank,
    engine: engine.multiply,
    dtype,
    ...(base === null ? {} : { base: base.weights }),
    onLayer: options.onLayer,
    ...endedBy(options.signal),
  }).finally(() => engine.dispose());
  const unheld = [...unusable, ...labelsUnheldBy(options, scheme, [adapter])];
  const result = await finish(output, scheme, unheld, options, async () => {
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
  return { ...result, converted, from: adapter.scheme };
}

function describeSingle(adapter: Adapter, base: ModelFiles | undefined) {
  return [
    { path: adapter.path, files: adapter.files },
    ...(base === undefined ? [] : [{ ...describeModel(base), settings: { role: 'base' } }]),
  ];
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

export interface ResizeFileOptions extends TargetOptions {
  readonly input: string;
  readonly rule: RankRule;
  readonly rank: number;
  readonly convRank?: number;
  /** Default `kohya`. */
  readonly format?: LayerFormat;
  readonly dtype?: FactorDType;
  readonly base?: string;
  /** Called after each layer. */
  readonly onLayer?: (done: number, total: number, id: string) => void;
}

/** Resize one file. @throws as `resizeAdapter`, `refuseLoss` and `writeAdapter` */
export async function resizeFile(
  options: ResizeFileOptions,
): Promise<JobResult & { resized: readonly ResizedReport[] }> {
  const {
    input,
    out,
    rule,
    rank,
    convRank = rank,
    format = 'kohya',
    dtype = 'F32',
    base: location,
  } = options;
  options.signal?.throwIfAborted();
  const adapter = await loadAdapter(input);
  checkAdapterTarget(out, format, {
    inputs: [...filesOfAdapters([adapter]), ...listed(location)],
    force: options.force ?? false,
  });
  const base = await baseOf(location);
  const described = describeSingle(adapter, base?.model);
  const read = filesOfInputs(described, options.signal);
  const engine = new GraphMatmulEngine();
  try {
    const { output, layers } = await resizeAdapter(adapter, {
      rule,
      rank,
      convRank,
      dtype,
      engine: engine.multiply,
      ...(base === null ? {} : { base: base.weights }),
      onLayer: options.onLayer,
      ...endedBy(options.signal),
    });
    const unheld = [...unusableOf([adapter]), ...labelsUnheldBy(options, format, [adapter])];
    const result = await finish(output, format, unheld, options, async () => {
      const recipe = await describeJob(
        'resize',
        out,
        described,
        {
          rule,
          rank,
          convRank,
          format,
          dtype,
          base: nameOf(base, out),
          drop: options.drop ?? false,
        },
        read.hashes(),
      );
      return inheritedMetadata(recipe, adapter);
    });
    return { ...result, resized: layers };
  } finally {
    await engine.dispose();
  }
}

export interface ExtractModelOptions extends TargetOptions, Omit<ExtractOptions, 'engine' | 'signal'> {
  readonly tuned: string;
  readonly base: string;
  /** Default `kohya`. */
  readonly format?: LayerFormat;
}

/** Extract the difference of two checkpoints. @throws as `extractAdapter`, `refuseLoss` and `writeAdapter` */
export async function extractModel(
  options: ExtractModelOptions,
): Promise<JobResult & { extracted: readonly ExtractedLayer[] }> {
  const { tuned: tunedPath, base: basePath, out, format = 'kohya', force = false, onLayer } = options;
  options.signal?.throwIfAborted();
  const [tuned, base] = [await openModelFiles(tunedPath), await openModelFiles(basePath)];
  const models = [describeModel(tuned), describeModel(base)];
  const read = filesOfInputs(models, options.signal);
  checkAdapterTarget(out, format, {
    inputs: models.flatMap(({ path: own, files }) => [own, ...files]),
    force,
  });
  const {
    rank,
    convRank = rank,
    layers = 'transformer',
    minDifference = 0,
    dtype = 'F32',
    seed = 0,
  } = options;
  const settings = { rank, convRank, layers, minDifference, dtype, seed };
  const engine = new GraphMatmulEngine();
  try {
    const extraction = await extractAdapter(tuned, base, {
      ...settings,
      engine: engine.multiply,
      onLayer,
      ...endedBy(options.signal),
    });
    const result = await finish(extraction.output, format, extraction.unheld, options, async () => {
      const recipe = await describeJob(
        'extract',
        out,
        models,
        {
          ...settings,
          format,
          drop: options.drop ?? false,
        },
        read.hashes(),
      );
      return { [recipeKey]: JSON.stringify(recipe) };
    });
    return { ...result, extracted: extraction.layers };
  } finally {
    await engine.dispose();
  }
}

export interface BakeFilesOptions extends TargetOptions {
  readonly base: string;
  readonly inputs: readonly StrengthOptions[];
  readonly dtype?: FactorDType;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Write a checkpoint with adapters inside. @throws as `planBake`, `refuseLoss` and `bakeModel` */
export async function bakeFiles(options: BakeFilesOptions): Promise<JobResult> {
  const { base, inputs: given, out, dtype, force = false, drop = false, onProgress } = options;
  options.signal?.throwIfAborted();
  const model = await openModelFiles(base);
  const inputs = await loadMergeInputs(given);
  const adapters = inputs.map(({ adapter }) => adapter);
  const described = describeModel(model);
  const read = filesOfInputs(describeInputs(adapters, given, model), options.signal);
  const rules = { inputs: [described.path, ...described.files, ...filesOfAdapters(adapters)], force };
  if (model.layout === 'single-file') checkFileTarget(out, rules);
  else checkFolderTarget(out, rules);
  const folder = path.dirname(path.resolve(out));
  if (!existsSync(folder)) throw new UsageError(`${out}: its folder does not exist`);
  const { changes, unheld } = planBake(model, inputs);
  const dropped = [...unusableOf(adapters), ...unheld];
  refuseLoss(out, dropped, drop);
  const recipe: MergeRecipe | null = options.noMetadata
    ? null
    : await describeJob(
        'bake',
        out,
        describeInputs(adapters, given, model),
        { dtype: dtype ?? null, drop },
        read.hashes(),
      );
  await bakeModel(model, inputs, out, {
    dtype,
    ...(recipe === null ? {} : { metadata: mergedMetadata(recipe, adapters) }),
    onProgress,
    ...endedBy(options.signal),
  });
  return { out: path.resolve(out), layers: changes.size, words: [], dropped };
}
