/** Which concepts a fusion takes, from the command line and from lists; under which words, and how strong. */
import path from 'node:path';
import {
  type Concept,
  type ConceptSpec,
  type FusionConceptInput,
  loadConcept,
  readManifest,
  renameTokens,
  UsageError,
} from '../../src/index.ts';
import { numbers, pairs, text, texts } from '../options.ts';

type Args = Readonly<Record<string, unknown>>;

/**
 * The concepts of --concepts, then those of --config, opened.
 * @param optional whether there may be none
 * @throws {UsageError} if there are none, or if strengths, names or renamed words do not go with them
 * @throws {FormatError | MismatchError} as `loadConcept`
 */
export async function readConcepts(args: Args, optional = false): Promise<FusionConceptInput[]> {
  const specs = await readSpecs(args, optional);
  const renames = pairs('rename', texts(args, 'rename'));
  const opened: Opened[] = [];
  for (const spec of specs) opened.push({ spec, concept: await loadConcept(spec.path), words: new Map() });
  for (const [old, word] of renames) assignRename(opened, old, word);
  return opened.map(({ spec, concept, words }) => ({
    concept: words.size === 0 ? concept : renameTokens(concept, words),
    unetStrength: spec.unetStrength,
    textEncoderStrength: spec.textEncoderStrength,
    name: spec.conceptName === null ? null : renamedIn(spec.conceptName, words),
  }));
}

interface Opened {
  readonly spec: ConceptSpec;
  readonly concept: Concept;
  /** Old word to new word. */
  readonly words: Map<string, string>;
}

async function readSpecs(args: Args, optional: boolean): Promise<ConceptSpec[]> {
  const files = texts(args, 'concepts');
  const config = text(args, 'config');
  if (!optional && files.length === 0 && config === undefined) {
    throw new UsageError('fuse: expected --concepts with at least one file, or --config');
  }
  const listed = config === undefined ? [] : await readManifest(config);
  const plain = { unetStrength: 1, textEncoderStrength: 1, conceptName: null };
  const specs: ConceptSpec[] = [...files.map((file) => ({ path: file, ...plain })), ...listed];
  const strengths = numbers(args, 'strength');
  if (strengths.length > 1 && strengths.length !== specs.length) {
    throw new UsageError(
      `--strength: expected one number, or ${specs.length} for ${specs.length} concepts, got ${strengths.length}`,
    );
  }
  const names = pairs('name', texts(args, 'name'));
  for (const [file] of names) {
    if (!specs.some((spec) => isCalled(spec, file))) {
      throw new UsageError(
        `--name: none of the concepts is ${file}; there are: ${specs.map((spec) => spec.path).join(', ')}`,
      );
    }
  }
  return specs.map((spec, i) => {
    const strength = strengths[i] ?? strengths[0] ?? 1;
    return {
      path: spec.path,
      unetStrength: spec.unetStrength * strength,
      textEncoderStrength: spec.textEncoderStrength * strength,
      conceptName: names.findLast(([file]) => isCalled(spec, file))?.[1] ?? spec.conceptName,
    };
  });
}

/** Whether a concept's path is what the user calls `file`: the same path, or its last part. */
function isCalled(spec: ConceptSpec, file: string): boolean {
  return path.resolve(spec.path) === path.resolve(file) || path.basename(spec.path) === file;
}

/** The first concept that has the word, and was not given another one for it yet, takes the new one. */
function assignRename(opened: readonly Opened[], old: string, word: string): void {
  const owner = opened.find(
    ({ concept, words }) => !words.has(old) && concept.tokens.some((token) => token.word === old),
  );
  if (owner === undefined) {
    const known = new Set(opened.flatMap(({ concept }) => concept.tokens.map((token) => token.word)));
    throw new UsageError(
      `--rename: nothing is called ${old}; the words are: ${[...known].join(', ') || 'none'}`,
    );
  }
  owner.words.set(old, word);
}

/** A concept's name with its words renamed. */
function renamedIn(name: string, words: ReadonlyMap<string, string>): string {
  return name
    .split(' ')
    .map((word) => words.get(word) ?? word)
    .join(' ');
}
