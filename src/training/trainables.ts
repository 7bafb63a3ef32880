/** Everything that a run trains, by name, and its two ends: feeds for the graphs, and their gradients. */
import type { Concept, ConceptToken } from '../concepts/concept.ts';
import type { MergedLayer } from '../concepts/lora-file.ts';
import { type BoundVocabulary, bindConcepts } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import { float32Tensor, type RawTensor } from '../formats/raw-tensor.ts';
import { matrix } from '../linalg/matrix.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { endOfWord } from '../models/clip/bpe.ts';
import { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import { type ComponentId, type LayerId, layerId } from '../models/families/layer-table.ts';
import type { ModelDeltas } from '../models/lora.ts';
import { Pace } from '../pace.ts';
import type { TorchGenerator } from '../tensor/random.ts';
import { float32 } from '../tensor/tensor.ts';
import { initialVector } from './concept-embeddings.ts';
import type { ModelFactors } from './factor-gradients.ts';
import {
  fullWeight,
  type LayerFactors,
  lohaFactors,
  loraFactors,
  orthogonalFactors,
  type RankMask,
} from './factors.ts';
import type { ResolvedSettings, TrainingMethod } from './methods/method.ts';
import { orthogonalRows } from './orthogonal-rows.ts';
import type { StepResult } from './step.ts';
import { type TrainedLayer, trainedLayers } from './trained-layers.ts';

export type ParameterGroup = 'embedding' | 'text' | 'unet';

export interface Parameter {
  readonly name: string;
  readonly group: ParameterGroup;
  readonly data: Float32Array;
}

/** What one text encoder reads of the trained words. */
export interface TrainedWords {
  /** Name of its parameter. */
  readonly name: string;
  /** Rows behind the vocabulary, [words · L, D], word by word; changed in place. */
  readonly rows: Float32Array;
  /** Where they started. */
  readonly start: Float32Array;
  readonly table: TokenEmbeddings;
}

export interface WordPlan {
  /** Words that the result keeps, in order. */
  readonly words: readonly string[];
  /** Words of single pictures, dropped at the end; by picture. */
  readonly pictureWords: readonly string[];
}

/** `<a>+<b>` → words; with several vectors `<a>` is written `<a> <a>_1 …`, as diffusers does. */
export function planWords({ token, vectors, perImageTokens }: ResolvedSettings, pictures: number): WordPlan {
  const given = token === '' ? [] : token.split('+').map((word) => word.trim());
  return {
    words: given.flatMap((word) =>
      Array.from({ length: vectors }, (_, i) => (i === 0 ? word : `${word}_${i}`)),
    ),
    pictureWords: perImageTokens ? Array.from({ length: pictures }, (_, i) => `<picture-${i}>`) : [],
  };
}

export class Trainables {
  readonly plan: WordPlan;
  readonly vocabulary: BoundVocabulary;
  /** Of every text encoder. */
  readonly words: ReadonlyMap<ComponentId, TrainedWords>;
  readonly layers: readonly LayerFactors[];
  /** Rows of embeddings per word. */
  readonly rowsPerWord: number;

  /**
   * @throws {UsageError} for words that exist already, and for starts that are not one token
   */
  constructor(
    base: Checkpoint,
    method: TrainingMethod,
    settings: ResolvedSettings,
    plan: WordPlan,
    random: TorchGenerator,
  ) {
    this.plan = plan;
    this.rowsPerWord = method.layerwise ? base.parts.layers.contextCount : 1;
    const words = [...plan.words, ...plan.pictureWords];
    for (const word of words) checkWord(base, word);
    const starts = startsOf(settings, plan);
    this.words = new Map(
      [...base.parts.textEncoders].map(([id, { weights, config, tokenizer }], encoder) => {
        const rows = new Float32Array(words.length * this.rowsPerWord * config.hiddenSize);
        const table = new TokenEmbeddings(weights, config, rows);
        words.forEach((_, i) => {
          const vector = initialVector(starts[i]!, tokenizer, table, random);
          for (let layer = 0; layer < this.rowsPerWord; layer++) {
            rows.set(vector, (i * this.rowsPerWord + layer) * config.hiddenSize);
          }
        });
        const name = encoder === 0 ? 'embedding' : `embedding.${id}`;
        return [id, { name, rows, start: rows.slice(), table }];
      }),
    );
    this.vocabulary = bindConcepts(base.parts.tokenizers, [this.#concept(words)], this.rowsPerWord);
    this.layers = layersOf(base, method, settings).map((layer) =>
      factorsOf(base, method, settings, layer, random),
    );
  }

  /** Ranks of the graphs' factors. */
  ranks(): Map<LayerId, number> {
    return new Map(this.layers.map(({ layer, graphRank }) => [idOf(layer), graphRank]));
  }

  /** Everything trained, in a fixed order. */
  parameters(): Parameter[] {
    const factors = this.layers.flatMap(({ layer, parameters }) =>
      [...parameters].map(
        ([part, data]): Parameter => ({
          name: `${layer.component}.${layer.layerName}.${part}`,
          group: layer.component === 'unet' ? 'unet' : 'text',
          data,
        }),
      ),
    );
    const words = [...this.words.values()].filter(({ rows }) => rows.length > 0);
    return [
      ...words.map(({ name, rows }): Parameter => ({ name, group: 'embedding', data: rows })),
      ...factors,
    ];
  }

  /** Words that are trained, those of single pictures too. */
  get wordCount(): number {
    return this.plan.words.length + this.plan.pictureWords.length;
  }

  /** @param masks one per layer */
  feeds(masks: readonly RankMask[]): ModelFactors {
    return new Map(
      this.layers.map(({ layer, graphRank, factors }, i) => {
        const { down, up } = factors(masks[i]!);
        return [
          idOf(layer),
          { down: float32([graphRank, layer.n], down), up: float32([layer.m, graphRank], up) },
        ];
      }),
    );
  }

  /** Gradients by parameter name. */
  gradients(result: StepResult, masks: readonly RankMask[]): Map<string, Float32Array> {
    const found = new Map<string, Float32Array>();
    for (const [id, gradient] of result.embeddings) found.set(this.words.get(id)!.name, gradient);
    this.layers.forEach(({ layer, backward }, i) => {
      const d = result.factors.get(idOf(layer))!;
      for (const [part, gradient] of backward(d, masks[i]!)) {
        found.set(`${layer.component}.${layer.layerName}.${part}`, gradient);
      }
    });
    return found;
  }

  /** The words that are kept, with copies of their embeddings. */
  tokens(): ConceptToken[] {
    return this.#concept(this.plan.words).tokens.map((token) => ({ ...token }));
  }

  async merged(): Promise<MergedLayer[]> {
    const pace = new Pace();
    const merged: MergedLayer[] = [];
    for (const layer of this.layers) merged.push(await pace.run(layer.merged()));
    return merged;
  }

  /** The present state as changes to draw with. */
  async deltas(): Promise<ModelDeltas> {
    return new Map(
      (await this.merged()).map((layer) => {
        const { up, down, rank } = layer;
        return [
          idOf(layer),
          {
            up: matrix(up.length / rank, rank, Float64Array.from(up)),
            down: matrix(rank, down.length / rank, Float64Array.from(down)),
          },
        ];
      }),
    );
  }

  #concept(words: readonly string[]): Concept {
    const vectors = ({ rows, table: { width } }: TrainedWords, word: string, i: number): RawTensor => {
      const size = this.rowsPerWord * width;
      return float32Tensor(word, [this.rowsPerWord, width], rows.slice(i * size, (i + 1) * size));
    };
    const tokens = words.map((word, i) => ({
      word,
      embeddings: new Map([...this.words].map(([id, own]) => [id, vectors(own, word, i)])),
    }));
    return { path: 'training', format: 'ed-lora', tokens, layers: new Map(), metadata: new Map() };
  }
}

const idOf = ({ component, layerName }: Pick<TrainedLayer, 'component' | 'layerName'>): LayerId =>
  layerId(component, layerName);

function checkWord({ tokenizer }: Checkpoint, word: string): void {
  if (
    tokenizer.tokenId(word) !== undefined ||
    tokenizer.tokenId(word.toLowerCase() + endOfWord) !== undefined
  ) {
    throw new UsageError(
      `token ${word}: expected a new word, it is in the base's vocabulary; write e.g. <${word.replace(/[<>]/g, '')}1>`,
    );
  }
}

/** One start per word: given ones, a word's further vectors and picture words like the last. */
function startsOf({ init, vectors }: ResolvedSettings, { words, pictureWords }: WordPlan): string[] {
  const named = words.length / vectors;
  const given =
    init === '' ? Array<string>(named).fill('<rand-0.017>') : init.split('+').map((part) => part.trim());
  if (given.length !== named) {
    throw new UsageError(`init: expected ${named} starts joined by +, one per word, got ${given.length}`);
  }
  return [
    ...given.flatMap((start) => Array<string>(vectors).fill(start)),
    ...pictureWords.map(() => given.at(-1) ?? '<rand-0.017>'),
  ];
}

function layersOf(base: Checkpoint, method: TrainingMethod, settings: ResolvedSettings): TrainedLayer[] {
  const { lrUnet, lrText, layers, textLayers, rank, alpha } = settings;
  const unet = method.unet === 'none' || lrUnet === 0 ? null : layers;
  const text = !method.text || lrText === 0 ? null : textLayers;
  if (unet === null && text === null) return [];
  return trainedLayers(base, {
    unet,
    text,
    keysValuesOnly: method.unet === 'keys-values',
    rank,
    convRank: settings.convRank,
    rankPattern: settings.rankPattern,
    alphaPattern: settings.alphaPattern,
    loraAlpha: alpha,
    alphaOverRank: method.alphaOverRank,
  });
}

function factorsOf(
  base: Checkpoint,
  method: TrainingMethod,
  { factors, seed, token }: ResolvedSettings,
  layer: TrainedLayer,
  random: TorchGenerator,
): LayerFactors {
  if (method.unet === 'keys-values') {
    return fullWeight(layer, base.parts.unet.weights.get(`${layer.layerName}.weight`)!);
  }
  if (factors === 'orthogonal') {
    const { layerName, rank, n } = layer;
    return orthogonalFactors(layer, orthogonalRows(layerName, `${seed} ${token}`, rank, n));
  }
  return factors === 'loha' ? lohaFactors(layer, random) : loraFactors(layer, random);
}
