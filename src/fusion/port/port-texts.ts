/** What the text encoders make of a concept's templates, under its own embeddings and under shared ones, and of captions. */
import type { Concept } from '../../concepts/concept.ts';
import { type BoundVocabulary, bindConcepts } from '../../concepts/prompt.ts';
import { type Matrix, matrix, splitRows } from '../../linalg/matrix.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { TokenEncoder, TokenEncoderOptions } from '../../models/families/conditioning.ts';
import { type PromptIds, paddedIds } from '../../models/families/prompt-ids.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import { isHeldOut } from './port-options.ts';

/** Features of the templates, [Σ T, D]: those that are learnt from, and those that are held out. */
export interface TemplateRows {
  readonly known: Matrix;
  readonly unseen: Matrix;
}

/** Texts of one run of the encoder. */
const MAX_BATCH = 32;

export class PortTexts {
  readonly #base: Checkpoint;
  readonly #deltas: ModelDeltas;
  readonly #execution: ExecutionContext;
  readonly #captions: readonly PromptIds[];
  readonly #native: BoundVocabulary;
  readonly #readNative: TokenEncoder;
  /** The templates with each concept's name, those that are held out last. */
  readonly prompts: readonly string[];
  /** How many of them are learnt from. */
  readonly knownCount: number;

  /**
   * @param concepts with words, as they were trained
   * @param names    what prompts call them
   */
  constructor(
    base: Checkpoint,
    deltas: ModelDeltas,
    concepts: readonly Concept[],
    { names, templates, captions }: Readonly<Record<'names' | 'templates' | 'captions', readonly string[]>>,
    execution: ExecutionContext,
  ) {
    this.#base = base;
    this.#deltas = deltas;
    this.#execution = execution;
    const { tokenizers, layers } = base.parts;
    this.#captions = captions.map((text) => paddedIds(tokenizers, text));
    this.#native = bindConcepts(tokenizers, concepts, layers.contextCount);
    this.#readNative = this.#reader(this.#native.embeddingRows, deltas);
    const filled = (heldOut: boolean): string[] =>
      names.flatMap((name) =>
        templates.filter((_, i) => isHeldOut(i) === heldOut).map((text) => text.replaceAll('{}', () => name)),
      );
    this.prompts = [...filled(false), ...filled(true)];
    this.knownCount = filled(false).length;
  }

  /** Under the embeddings of one cross-attention. */
  native(contextIndex: number): Promise<TemplateRows> {
    const ids = this.prompts.map((text) => this.#native.promptIds(text)[contextIndex]!);
    return this.#templates(this.#readNative, ids);
  }

  /** Under one embedding per word. @param concepts with such words */
  shared(concepts: readonly Concept[]): Promise<TemplateRows> {
    const bound = bindConcepts(this.#base.parts.tokenizers, concepts, 1);
    const ids = this.prompts.map((text) => bound.promptIds(text)[0]!);
    return this.#templates(this.#reader(bound.embeddingRows, this.#deltas), ids);
  }

  /** Captions in the model with the changes, and in the base. */
  async captions(): Promise<{ own: Matrix; base: Matrix }> {
    return {
      own: await rowsOf(this.#reader(undefined, this.#deltas), this.#captions),
      base: await rowsOf(this.#reader(undefined, new Map()), this.#captions),
    };
  }

  #reader(added: TokenEncoderOptions['added'], deltas: ModelDeltas): TokenEncoder {
    const { family, parts } = this.#base;
    return family.base.tokenEncoder(parts, { added, deltas, execution: this.#execution });
  }

  /** One batch, so that one graph serves all. */
  async #templates(encoder: TokenEncoder, ids: readonly PromptIds[]): Promise<TemplateRows> {
    return this.split(await rowsOf(encoder, ids));
  }

  /** Rows of all prompts as those of both kinds. */
  split(rows: Matrix): TemplateRows {
    const known = (rows.rows / this.prompts.length) * this.knownCount;
    const [first, second] = splitRows(rows, [known, rows.rows - known]);
    return { known: first!, unseen: second! };
  }
}

/** Text features of all positions, [Σ T, D]. */
async function rowsOf(encoder: TokenEncoder, ids: readonly PromptIds[]): Promise<Matrix> {
  const parts: Float32Array[] = [];
  let width = 0;
  for (let first = 0; first < ids.length; first += MAX_BATCH) {
    const { states } = await encoder.encode(ids.slice(first, first + MAX_BATCH));
    width = states.shape[2]!;
    parts.push(states.data);
  }
  const count = parts.reduce((sum, { length }) => sum + length, 0);
  const rows = matrix(width === 0 ? 0 : count / width, width);
  let at = 0;
  for (const part of parts) {
    rows.data.set(part, at);
    at += part.length;
  }
  return rows;
}
