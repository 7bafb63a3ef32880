/**
 * A concept, or a fusion, for programs that know one embedding per word: the words get one each, and the keys and values of the
 * cross-attentions learn to answer under it as they did under one per layer.
 *
 * With x the text features under the shared embedding, f those under layer l's own (both by the text encoder with the concept's
 * changes), and W, ΔW of a layer's to_k or to_v,
 *
 *   ΔW* = argmin_Δ  Σ ‖(W + Δ) x − (W + ΔW) f‖²  +  β Σ ‖(W + Δ) x_c − W f_c‖²  +  λ ‖Δ‖²
 *
 * over all positions of templates with the words in several places, and of captions c that are to be read as the base reads them
 * (f_c by the base's own text encoder). The normal matrix M = X Xᵀ + β X_c X_cᵀ + λ I is that of all layers, since the shared
 * embedding is. With M = L Lᵀ and B the right-hand side, the best answer of rank r in the norm of the features is that of the
 * r largest singular values of B L⁻ᵀ, times L⁻¹.
 */
import { type Concept, conceptName } from '../../concepts/concept.ts';
import { bindConcepts } from '../../concepts/prompt.ts';
import { UsageError } from '../../errors.ts';
import { readFloat64 } from '../../formats/raw-tensor.ts';
import {
  type CholeskyFactor,
  choleskySteps,
  solveLowerRowsSteps,
  solveUpperRowsSteps,
} from '../../linalg/cholesky.ts';
import { choleskyAsync, type MatmulEngine } from '../../linalg/cholesky-async.ts';
import { type LowRank, lowRank, toDense } from '../../linalg/low-rank.ts';
import { type Matrix, matrix, splitRows, transpose } from '../../linalg/matrix.ts';
import { svdSteps } from '../../linalg/svd.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { TokenEncoder, TokenEncoderOptions } from '../../models/families/conditioning.ts';
import type { Layer, LayerId } from '../../models/families/layer-table.ts';
import { type PromptIds, paddedIds } from '../../models/families/prompt-ids.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import { Pace, type Steps } from '../../pace.ts';
import type { Progress } from '../../progress.ts';
import { type ExecutionRequest, executionContext } from '../../runtime/execution-context.ts';
import { GraphMatmulEngine } from '../../runtime/matmul-engine.ts';
import { withDefaults } from '../../settings.ts';
import { withSharedWords } from './shared-words.ts';

export interface PortOptions {
  /** Rank of the answer of every key and value layer. Default 16, or what the layer can have. */
  readonly rank: number;
  /** β: weight of the captions, relative to the templates' energy. Default 1. */
  readonly preserve: number;
  /** λ, relative to the mean diagonal of the features' Gram matrix. Default 1e-3. */
  readonly ridge: number;
  /** Prompts with `{}` for a concept's words. Every fourth is held out, and tells what was kept. */
  readonly templates: readonly string[];
}

export const PORT_DEFAULTS: PortOptions = {
  rank: 16,
  preserve: 1,
  ridge: 1e-3,
  templates: [
    'photo of a {}',
    '{}',
    'a {} on a table',
    'a photo of a {} in a garden',
    'a picture of a {} at night',
    'two of them, a {} and a dog',
    'a small {} on a white background',
    'close up of the {}',
    'a drawing of a {}',
    'a cat beside a {}',
    '{}, soft light',
    'a large {} in front of a blue wall',
    'painting of {} by the sea',
    'the {} to the left of a red ball',
    'a rendering of a {} on a gray background',
    'a {} and a tree',
  ],
};

export interface PortRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  /** Changes of the base, strengths inside. */
  readonly deltas: ModelDeltas;
  /** Concepts with words. */
  readonly concepts: readonly Concept[];
  /** What prompts call them, e.g. `<smiley1> <smiley2>`. Default: each by all of its words. */
  readonly names?: readonly string[];
  readonly options?: Partial<PortOptions>;
  /** What is to be read as the base reads it. */
  readonly captions: readonly string[];
  /** Told of each cross-attention layer. */
  readonly onProgress?: (progress: Progress) => void;
}

/** What a layer kept, on templates that the answer has not seen. */
export interface PortedLayer {
  readonly id: LayerId;
  /** 1 − ‖(W + Δ) x − y‖² / ‖W x − y‖² by the answer. */
  readonly kept: number;
  /** The same by the concept's own ΔW under the shared embedding. */
  readonly keptByOwn: number;
}

export interface Port {
  /** The given changes, with other keys and values. */
  readonly deltas: ModelDeltas;
  /** The concepts with one embedding per word. */
  readonly concepts: readonly Concept[];
  readonly layers: readonly PortedLayer[];
}

/**
 * @throws {UsageError} if no concept has words, or an option is out of range
 * @throws {NumericalError} if features are not finite
 */
export async function portable(request: PortRequest): Promise<Port> {
  const { base, deltas, captions, onProgress } = request;
  const options = withDefaults(PORT_DEFAULTS, request.options ?? {});
  checkOptions(options);
  const worded = request.concepts.filter(({ tokens }) => tokens.length > 0);
  if (worded.length === 0) {
    throw new UsageError(
      'port: expected a concept with words of its own, got none; a plain LoRA already is what other programs read',
    );
  }
  const execution = executionContext(request);
  const pace = new Pace(request.signal);
  const engine = new GraphMatmulEngine({
    use: 'every-step',
    threads: request.threads,
    signal: request.signal,
  });
  try {
    const shared = worded.map(withSharedWords);
    const { parts, family } = base;
    const layerCount = parts.layers.contextCount;
    const native = bindConcepts(parts.tokenizers, worded, layerCount);
    const bound = bindConcepts(parts.tokenizers, shared, layerCount);
    const reader = (added: TokenEncoderOptions['added'], own: ModelDeltas): TokenEncoder =>
      family.base.tokenEncoder(parts, { added, deltas: own, execution });
    const readNative = reader(native.embeddingRows, deltas);
    const readShared = reader(bound.embeddingRows, deltas);
    const readBase = reader(undefined, new Map());
    const names = request.names ?? worded.map(conceptName);
    const prompts = names.flatMap((name) =>
      options.templates.map((template) => template.replaceAll('{}', name)),
    );
    const heldOut = (_: unknown, i: number): boolean => i % HELD_OUT_OF === HELD_OUT_OF - 1;
    const known = prompts.filter((text, i) => !heldOut(text, i));
    const unseen = prompts.filter(heldOut);
    const idsOf = (texts: readonly string[], vocabulary: typeof native, layer: number): PromptIds[] =>
      texts.map((text) => vocabulary.promptIds(text)[layer]!);

    /** Rows of the templates that are known, and of those that are held out; one batch, so that one graph serves all. */
    const bothRows = async (
      encoder: TokenEncoder,
      vocabulary: typeof native,
      layer: number,
    ): Promise<[known: Matrix, unseen: Matrix]> => {
      const rows = await rowsOf(encoder, idsOf([...known, ...unseen], vocabulary, layer));
      const each = rows.rows / prompts.length;
      return splitRows(rows, [each * known.length, each * unseen.length]) as [Matrix, Matrix];
    };
    const [x, xUnseen] = await bothRows(readShared, bound, 0);
    const captionIds = captions.map((text) => paddedIds(parts.tokenizers, text));
    const xCaptions = await rowsOf(readShared, captionIds);
    const fCaptions = await rowsOf(readBase, captionIds);
    const multiply = engine.multiply;
    const gram = await multiply(transpose(x), x);
    const captionGram = await multiply(transpose(xCaptions), xCaptions);
    const beta =
      captions.length === 0
        ? 0
        : (options.preserve * trace(gram)) / Math.max(trace(captionGram), Number.MIN_VALUE);
    const normal = combined(gram, 1, captionGram, beta);
    addDiagonal(normal, (options.ridge * trace(gram)) / gram.rows);
    const factor =
      normal.rows < ENGINE_FROM_ROWS
        ? await pace.run(choleskySteps(normal))
        : await choleskyAsync(normal, multiply);
    /** Σ (f_c − x_c) x_cᵀ */
    const captionGap = await gapOf(fCaptions, xCaptions, captionGram, multiply);

    const answers = new Map<LayerId, LowRank>();
    const layers: PortedLayer[] = [];
    const targets = [...parts.layers].filter(({ role }) => role === 'context');
    for (let index = 0; index < layerCount; index++) {
      const [f, fUnseen] = await bothRows(readNative, native, index);
      const cross = await multiply(transpose(f), x);
      for (const layer of targets.filter(({ contextIndex }) => contextIndex === index)) {
        const weight = weightOf(base, layer);
        const own = deltas.get(layer.id);
        const ownDense = own === undefined ? matrix(layer.m, layer.n) : toDense(own);
        // B = W (C − G) + ΔW C + β W Σ (f_c − x_c) x_cᵀ
        const gap = combined(combined(cross, 1, gram, -1), 1, captionGap, beta);
        const right = combined(await multiply(weight, gap), 1, await multiply(ownDense, cross), 1);
        const answer = await pace.run(bestOfRank(factor, right, options.rank));
        answers.set(layer.id, answer);
        // What has to be added to W x, row by row: W and ΔW from the right.
        const wanted = combined(
          await multiply(combined(fUnseen, 1, xUnseen, -1), transpose(weight)),
          1,
          await multiply(fUnseen, transpose(ownDense)),
          1,
        );
        const kept = async (change: Matrix): Promise<number> => {
          const given = await multiply(xUnseen, transpose(change));
          return 1 - energy(combined(wanted, 1, given, -1)) / energy(wanted);
        };
        layers.push({
          id: layer.id,
          kept: await kept(toDense(answer)),
          keptByOwn: await kept(ownDense),
        });
        await pace.turn();
      }
      onProgress?.({ done: index + 1, total: layerCount });
    }
    return { deltas: new Map([...deltas, ...answers]), concepts: shared, layers };
  } finally {
    await engine.dispose();
  }
}

/** Templates of which one is held out. */
const HELD_OUT_OF = 4;
/** From here on the engine factorises faster than the plain loops. */
const ENGINE_FROM_ROWS = 512;

function checkOptions({ rank, preserve, ridge, templates }: PortOptions): void {
  if (!(Number.isSafeInteger(rank) && rank >= 1)) {
    throw new UsageError(`rank: expected a whole number of 1 or more, got ${rank}`);
  }
  for (const [name, value] of [
    ['preserve', preserve],
    ['ridge', ridge],
  ] as const) {
    if (!(value >= 0 && value <= 1e4)) throw new UsageError(`${name}: expected 0 … 10000, got ${value}`);
  }
  if (ridge === 0) throw new UsageError('ridge: expected a number above 0, got 0');
  if (templates.length < HELD_OUT_OF || templates.some((text) => !text.includes('{}'))) {
    throw new UsageError(`templates: expected ${HELD_OUT_OF} or more, each with {} for the words`);
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

/** Texts of one run of the encoder. */
const MAX_BATCH = 32;

/** Σ (f − x) xᵀ = Fᵀ X − Xᵀ X. */
async function gapOf(f: Matrix, x: Matrix, gram: Matrix, multiply: MatmulEngine): Promise<Matrix> {
  return combined(await multiply(transpose(f), x), 1, gram, -1);
}

function weightOf(base: Checkpoint, { layerName, m, n }: Layer): Matrix {
  return matrix(m, n, readFloat64(base.parts.unet.weights.get(`${layerName}.weight`, [m, n])!));
}

/**
 * Of all Δ of a rank the one nearest to B M⁻¹ in the norm of the features, ‖(Δ − B M⁻¹) L‖.
 * @param factor L of M
 * @param right  B [m, n]
 */
function* bestOfRank(factor: CholeskyFactor, right: Matrix, most: number): Steps<LowRank> {
  const { u, singularValues, v } = yield* svdSteps(yield* solveLowerRowsSteps(factor, right));
  const rank = Math.min(most, singularValues.length);
  const [up, down] = [matrix(right.rows, rank), matrix(rank, right.cols)];
  for (let k = 0; k < rank; k++) {
    for (let i = 0; i < up.rows; i++) up.data[i * rank + k] = u.data[i * u.cols + k]! * singularValues[k]!;
    for (let j = 0; j < down.cols; j++) down.data[k * down.cols + j] = v.data[j * v.cols + k]!;
  }
  return lowRank(up, yield* solveUpperRowsSteps(factor, down));
}

/** a A + b B */
function combined(a: Matrix, factorA: number, b: Matrix, factorB: number): Matrix {
  const data = new Float64Array(a.data.length);
  for (let i = 0; i < data.length; i++) data[i] = factorA * a.data[i]! + factorB * (b.data[i] ?? 0);
  return matrix(a.rows, a.cols, data);
}

function addDiagonal({ rows, data }: Matrix, value: number): void {
  for (let i = 0; i < rows; i++) data[i * rows + i]! += value;
}

function trace({ rows, data }: Matrix): number {
  let sum = 0;
  for (let i = 0; i < rows; i++) sum += data[i * rows + i]!;
  return sum;
}

function energy({ data }: Matrix): number {
  let sum = 0;
  for (const value of data) sum += value * value;
  return sum;
}
