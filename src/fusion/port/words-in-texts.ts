/** Embeddings of words that move, one per word, and the templates as the text encoders read them. */
import type { Concept } from '../../concepts/concept.ts';
import { bindConcepts } from '../../concepts/prompt.ts';
import { type Matrix, matrix } from '../../linalg/matrix.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { TokenEmbeddings } from '../../models/clip/text-encoder.ts';
import { type ComponentId, within } from '../../models/families/layer-table.ts';
import type { PromptIds, TokenIds } from '../../models/families/prompt-ids.ts';
import { deltaFeeds, deltaRanks, type ModelDeltas } from '../../models/lora.ts';
import { adamwState, adamwStep } from '../../optim/adamw.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import type { FactorFeeds } from '../../training/factor-gradients.ts';
import { TextStep } from '../../training/text-step.ts';
import type { PortTexts, TemplateRows } from './port-texts.ts';

/** A text encoder, and the words' embeddings in it. */
interface Reader {
  readonly id: ComponentId;
  readonly text: TextStep;
  readonly factors: FactorFeeds;
  /** [words, D] */
  readonly rows: Float32Array;
  readonly adam: ReturnType<typeof adamwState>;
  /** Root mean square of the rows it began with. */
  readonly size: number;
}

export class WordsInTexts {
  readonly #texts: PortTexts;
  readonly #ids: readonly PromptIds[];
  readonly #readers: readonly Reader[];

  /** @param concepts with one embedding per word */
  constructor(
    { base, deltas, texts }: { base: Checkpoint; deltas: ModelDeltas; texts: PortTexts },
    concepts: readonly Concept[],
    execution: ExecutionContext,
  ) {
    const bound = bindConcepts(base.parts.tokenizers, concepts, 1);
    this.#texts = texts;
    this.#ids = texts.prompts.map((text) => bound.promptIds(text)[0]!);
    const { textReading } = base.family.base;
    this.#readers = [...base.parts.textEncoders].map(([id, part]) => {
      const own = within(id, deltas);
      const ranks = deltaRanks(own);
      const rows = bound.embeddingRows(id);
      const plan = {
        ranks,
        firstTrainedId: bound.tokenizers.get(id)!.tokenId(bound.tokens[0]!.names[0]!)!,
        trainedRows: bound.tokens.length,
        prompts: this.#ids.length,
        sharedPrefix: 0,
      };
      const embeddings = new TokenEmbeddings(part.weights, part.config, rows);
      return {
        id,
        text: new TextStep(part, { ...textReading, pooled: false }, embeddings, plan, execution),
        factors: deltaFeeds(own, ranks, part.layers) as FactorFeeds,
        rows,
        adam: adamwState(rows.length),
        size: Math.sqrt(rows.reduce((sum, value) => sum + value * value, 0) / rows.length),
      };
    });
  }

  /** By text encoder, [words, D]. */
  get rows(): ReadonlyMap<ComponentId, Float32Array> {
    return new Map(this.#readers.map(({ id, rows }) => [id, rows]));
  }

  /** Features of all templates, text encoders side by side. */
  async features(): Promise<TemplateRows> {
    const halves: Float32Array[][] = [];
    for (const [e, { text, factors }] of this.#readers.entries()) {
      const found = await text.features(this.#own(e), factors);
      halves.push(this.#own(e).map((ids) => found.get(ids.join())!.states));
    }
    const widths = this.#widths;
    const tokens = halves[0]![0]!.length / widths[0]!;
    const all = matrix(
      this.#ids.length * tokens,
      widths.reduce((sum, width) => sum + width, 0),
    );
    let column = 0;
    halves.forEach((prompts, e) => {
      const width = widths[e]!;
      prompts.forEach((states, p) => {
        for (let t = 0; t < tokens; t++) {
          all.data.set(states.subarray(t * width, (t + 1) * width), (p * tokens + t) * all.cols + column);
        }
      });
      column += width;
    });
    return this.#texts.split(all);
  }

  /** Of every text encoder's rows. @param gradient by the features of the templates that are learnt from */
  async gradients(gradient: Matrix): Promise<Float32Array[]> {
    const { knownCount } = this.#texts;
    const tokens = gradient.rows / knownCount;
    const found: Float32Array[] = [];
    let column = 0;
    for (const [e, { text, factors }] of this.#readers.entries()) {
      const width = this.#widths[e]!;
      const seeds = this.#own(e)
        .slice(0, knownCount)
        .map((ids, p) => {
          const states = new Float32Array(tokens * width);
          for (let t = 0; t < tokens; t++) {
            const from = (p * tokens + t) * gradient.cols + column;
            states.set(gradient.data.subarray(from, from + width), t * width);
          }
          return { ids, states, pooled: null };
        });
      found.push((await text.gradients(seeds, factors)).embeddings!);
      column += width;
    }
    return found;
  }

  /** @param rate of Adam's steps, as a share of the embeddings' root mean square */
  step(gradients: readonly Float32Array[], rate: number): void {
    this.#readers.forEach(({ rows, adam, size }, e) => {
      adamwStep(rows, gradients[e]!, adam, rate * size, { weightDecay: 0 });
    });
  }

  async dispose(): Promise<void> {
    for (const { text } of this.#readers) await text.dispose();
  }

  get #widths(): readonly number[] {
    return this.#readers.map(({ text }) => text.width);
  }

  /** Of one text encoder. */
  #own(encoder: number): TokenIds[] {
    return this.#ids.map((ids) => ids[encoder]!);
  }
}
