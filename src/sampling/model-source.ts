/**
 * From the files that a scene names to a base with its changes and words: fusions, fused checkpoints, single concepts,
 * plain LoRAs and textual inversion embeddings, alone or together.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { isAdapterFolder } from '../adapters/read.ts';
import { type Concept, conceptName } from '../concepts/concept.ts';
import { loadConcept } from '../concepts/concept-file.ts';
import { type EmbeddingFile, loadEmbeddings } from '../concepts/embedding-file.ts';
import { conceptDeltas } from '../concepts/fit.ts';
import { type BoundVocabulary, bindConcepts, type ConceptConfig } from '../concepts/prompt.ts';
import { type FoundName, headerPhrase } from '../concepts/trigger-phrase.ts';
import { FormatError, UsageError } from '../errors.ts';
import { infoOf } from '../io/file-info.ts';
import { placeOfRecord } from '../io/recorded-path.ts';
import { type Checkpoint, openCheckpoint } from '../models/checkpoint.ts';
import { PROMPT_WORDS, WordMatcher } from '../models/clip/word-matcher.ts';
import { readConfig } from '../models/config-file.ts';
import type { ModelDeltas } from '../models/lora.ts';
import { PREDICTION_TYPES, type PredictionType } from '../models/model-schedule.ts';
import { defaultBase } from '../package-root.ts';
import type { NormalScene, WeightFile } from './scene.ts';

/** What a scene draws with. */
export interface SceneModel {
  readonly base: Checkpoint;
  readonly vocabulary: BoundVocabulary;
  /** Changes of the base that act everywhere: a fusion's. */
  readonly deltas: ModelDeltas;
  /** Files of their own, which act where a scene's prompts and regions name them. */
  readonly concepts: readonly SceneConcept[];
  /** Whose words the vocabulary has, those of the base's tokenizer aside. */
  readonly worded: readonly Concept[];
  /** What prompts call the concepts, e.g. `<smiley1> <smiley2>`; empty without concepts. */
  readonly conceptNames: readonly string[];
  /** Files that a scene loads for their words, with the words. */
  readonly wordFiles: readonly { readonly path: string; readonly words: readonly string[] }[];
}

/** A concept or LoRA that a scene names. */
export interface SceneConcept {
  /** As the scene has it. */
  readonly path: string;
  readonly words: readonly string[];
  /** What its header calls it, if it has no words of its own. */
  readonly phrase: FoundName | null;
  /** Changes of the base, of strength 1. */
  readonly deltas: ModelDeltas;
  /** Strengths where words call it, or everywhere; null for a file that only `<lora:…>` names, with strengths of its own. */
  readonly own: Omit<WeightFile, 'path'> | null;
}

export type ModelSources = Pick<
  NormalScene,
  'base' | 'baseConfig' | 'prediction' | 'fused' | 'concepts' | 'loras' | 'promptLoras' | 'embeddings'
> &
  Partial<Pick<NormalScene, 'regions'>>;

const recipeSchema = z.object({
  base: z.object({ path: z.string(), prediction: z.enum(PREDICTION_TYPES).optional() }),
  concepts: z.array(z.object({ name: z.string(), words: z.array(z.string()) })),
});

const conceptConfigSchema = z.record(
  z.string(),
  z.object({ concept_token_ids: z.array(z.int()), concept_token_names: z.array(z.string()) }),
);

/**
 * Open everything a scene names. Headers and small tensors only; no network is loaded.
 * @throws {FormatError | MismatchError} for files that are damaged or do not fit the base
 * @throws {UsageError} for sources that exclude each other, or words that are used twice
 */
export async function openSceneModel(sources: ModelSources): Promise<SceneModel> {
  const fused = sources.fused === undefined ? null : await openFused(sources.fused);
  if (fused?.kind === 'checkpoint' && sources.base !== undefined) {
    throw new UsageError(`${fused.folder}: is a whole checkpoint; leave out \`base\` (${sources.base})`);
  }
  const location =
    fused?.kind === 'checkpoint' ? fused.folder : (sources.base ?? fused?.base ?? defaultBase());
  const recorded = fused?.kind === 'fusion' && sources.base === undefined ? fused.prediction : undefined;
  const base = await openCheckpoint(location, {
    configFolder: sources.baseConfig,
    prediction: sources.prediction ?? recorded,
  });
  const layerCount = base.parts.layers.contextCount;

  const concepts: Concept[] = [];
  let deltas: ModelDeltas = new Map();
  let ofFusion: Concept | null = null;
  const expansions = new Map<string, readonly string[]>();
  const addEmbeddings = ({ concept, expansions: own }: EmbeddingFile): void => {
    concepts.push(concept);
    for (const [word, words] of own) {
      // Names of files are no words that anybody chose: those of the vocabulary keep their meaning.
      const isName = !concept.tokens.some((token) => token.word === word);
      if (isName && (expansions.has(word) || base.tokenizer.isWord(word))) continue;
      expansions.set(word, words);
    }
  };
  if (fused?.kind === 'fusion') {
    deltas = await conceptDeltas(base, await loadConcept(fused.lora), { convolutions: true });
    if (fused.embeddings !== null) {
      const opened = await loadEmbeddings(fused.embeddings, base, { ofFusion: true });
      ofFusion = inWordOrder(opened.concept, fused.words);
      addEmbeddings({ ...opened, concept: ofFusion });
    }
  }
  const placed: SceneConcept[] = [];
  const open = async (file: string, own: SceneConcept['own']): Promise<void> => {
    const concept = await loadConcept(own === null ? calledFile(file) : file);
    placed.push({
      path: file,
      words: concept.tokens.map(({ word }) => word),
      phrase: concept.tokens.length === 0 ? headerPhrase(concept) : null,
      deltas: await conceptDeltas(base, concept, { convolutions: true }),
      own,
    });
    if (concept.tokens.length > 0) concepts.push(concept);
  };
  for (const { path: file, ...own } of [...sources.concepts, ...sources.loras]) await open(file, own);
  const called = [
    ...(sources.promptLoras ?? []),
    ...(sources.regions ?? []).flatMap(({ loras = [] }) => loras),
  ];
  for (const file of new Set(called.map((entry) => entry.path))) {
    if (!placed.some(({ path: known }) => known === file)) await open(file, null);
  }
  for (const file of sources.embeddings ?? []) {
    addEmbeddings(await loadEmbeddings(file, base));
  }
  const installed = await installedConcepts(base);
  const vocabulary = bindConcepts(base.parts.tokenizers, concepts, layerCount, installed);
  const names = [
    ...(fused?.kind === 'fusion' ? fused.names : []),
    ...(fused?.kind === 'checkpoint' ? namesOfWords(Object.keys(installed)) : []),
    ...concepts.filter(({ layers }) => layers.size > 0).map(conceptName),
  ];
  return {
    base,
    vocabulary: expansions.size === 0 ? vocabulary : expanding(vocabulary, expansions),
    deltas,
    concepts: placed,
    worded: concepts,
    conceptNames: names,
    wordFiles: concepts
      .filter((concept) => concept !== ofFusion)
      .map(({ path: file, tokens }) => ({ path: file, words: tokens.map(({ word }) => word) })),
  };
}

/** Endings that a tag may leave out, as web UIs do. */
const ENDINGS = ['', '.safetensors', '.pth', '.pt', '.ckpt', '.bin'];

/** The file that a tag calls. @throws {UsageError} if there is none */
function calledFile(name: string): string {
  const found = ENDINGS.map((ending) => `${name}${ending}`).find(existsSync);
  if (found === undefined) {
    throw new UsageError(
      `<lora:${path.basename(name)}>: no such file, and no LoRA of that name is loaded: ${name}`,
    );
  }
  return found;
}

interface FusionFolder {
  readonly kind: 'fusion';
  readonly lora: string;
  readonly embeddings: string | null;
  /** Path of the base that it was made on; null if that is not there any more. */
  readonly base: string | null;
  /** What the user said of that base when it was fused. */
  readonly prediction: PredictionType | undefined;
  readonly names: readonly string[];
  readonly words: readonly string[];
}

interface FusedCheckpoint {
  readonly kind: 'checkpoint';
  readonly folder: string;
}

/** What kind of fusion a folder holds. @throws {FormatError} if it holds none */
async function openFused(folder: string): Promise<FusionFolder | FusedCheckpoint> {
  if (!infoOf(folder)?.isDirectory()) {
    throw new FormatError(folder, 'expected the folder of a fusion');
  }
  if (isAdapterFolder(folder)) {
    throw new FormatError(
      folder,
      'expected a fusion or a fused checkpoint, got a LoRA; name it among the concepts',
    );
  }
  if (existsSync(path.join(folder, 'unet'))) return { kind: 'checkpoint', folder };
  const lora = ['lora.safetensors', 'lora'].map((name) => path.join(folder, name)).find(existsSync);
  const recipeFile = path.join(folder, 'recipe.json');
  if (lora === undefined || !existsSync(recipeFile)) {
    throw new FormatError(
      folder,
      'expected a fusion (lora.safetensors and recipe.json) or a fused checkpoint (unet/, new_concept_cfg.json)',
    );
  }
  const recipe = await readConfig(recipeFile, recipeSchema);
  const base = placeOfRecord(recipe.base.path, [path.resolve(folder)]);
  const embeddings = path.join(folder, 'embeddings.safetensors');
  return {
    kind: 'fusion',
    lora,
    embeddings: existsSync(embeddings) ? embeddings : null,
    base: existsSync(base) ? base : null,
    prediction: recipe.base.prediction,
    names: recipe.concepts.map(({ name }) => name),
    words: recipe.concepts.flatMap(({ words }) => words),
  };
}

/** Safetensors files order by name; the recipe knows the order of the words. */
function inWordOrder(concept: Concept, words: readonly string[]): Concept {
  const place = ({ word }: { word: string }): number => {
    const index = words.indexOf(word);
    return index < 0 ? words.length : index;
  };
  return { ...concept, tokens: concept.tokens.toSorted((a, b) => place(a) - place(b)) };
}

/** Words that a fused checkpoint's tokenizer holds already: `new_concept_cfg.json`, as Mix-of-Show writes it. */
async function installedConcepts({ path: folder, layout }: Checkpoint): Promise<ConceptConfig> {
  const file = path.join(folder, 'new_concept_cfg.json');
  if (layout !== 'diffusers' || !existsSync(file)) return {};
  return readConfig(file, conceptConfigSchema);
}

/** Words to concepts: those that differ only in a number at the end belong together, `<potter1> <potter2>`. */
function namesOfWords(words: readonly string[]): string[] {
  const groups = new Map<string, string[]>();
  for (const word of words) {
    const stem = withoutNumber(word);
    groups.set(stem, [...(groups.get(stem) ?? []), word]);
  }
  return [...groups.values()].map((group) => group.join(' '));
}

/** `<potter12>` → `<potter>` */
function withoutNumber(word: string): string {
  if (!word.endsWith('>')) return word;
  let end = word.length - 1;
  while (end > 0 && /\d/.test(word[end - 1]!)) end--;
  return `${word.slice(0, end)}>`;
}

/** The vocabulary with words of several tokens written out in prompts. */
function expanding(
  vocabulary: BoundVocabulary,
  expansions: ReadonlyMap<string, readonly string[]>,
): BoundVocabulary {
  // Words that stand for themselves too, so that none of the others is found inside of them.
  const words = new Set(vocabulary.tokens.map(({ word }) => word));
  const byWord = new Map(
    [
      // Files' names before words, which take their place.
      ...[...expansions].filter(([word]) => !words.has(word)),
      ...[...words].map((word) => [word, expansions.get(word) ?? [word]] as const),
    ].map(([word, names]) => [word.toLowerCase(), names.join(' ')]),
  );
  const matcher = new WordMatcher(byWord.keys(), PROMPT_WORDS);
  const expand = (prompt: string): string => matcher.replace(prompt, (word) => byWord.get(word)!);
  return { ...vocabulary, layerPrompts: (prompt) => vocabulary.layerPrompts(expand(prompt)) };
}
