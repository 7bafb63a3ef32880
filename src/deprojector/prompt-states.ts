/** Hidden states of many prompts: the text encoder reads each once, and they are kept in a file. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { NumericalError } from '../errors.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import { computedTensor, float32Tensor, readBytes, readFloat32, sliceRows } from '../formats/raw-tensor.ts';
import { layOutSafetensors } from '../formats/safetensors.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { sha256 } from '../io/platform/sha256.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import type { ClipTextConfig } from '../models/clip/config.ts';
import { buildTextEncoder, pooledPosition, TokenEmbeddings } from '../models/clip/text-encoder.ts';
import type { ClipTokenizer } from '../models/clip/tokenizer.ts';
import { inOneGo } from '../pace.ts';
import type { Progress } from '../progress.ts';
import type { ExecutionContext } from '../runtime/execution-context.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** What the text encoder made of some prompts. */
export interface PromptStates {
  /** N */
  readonly count: number;
  /** Positions without the first, T. */
  readonly positions: number;
  /** D */
  readonly width: number;
  /** State of the first position, whatever the prompt, [D]. */
  readonly start: Float32Array;
  /** Pooled state of the empty prompt, [D]. */
  readonly origin: Float32Array;
  /** Pooled states, [N, D]. */
  readonly pooled: Float32Array;
  /** States of one prompt behind the first position, [T, D]. */
  of(index: number): Float32Array;
}

/** A text encoder and how it reads prompts. */
export interface TextReader {
  readonly encoder: ModelPart<ClipTextConfig>;
  readonly tokenizer: ClipTokenizer;
  /** `textEncoderHash` of it. */
  readonly hash: string;
}

/** Prompts of one run of the encoder. */
const BATCH = 64;
const FORMAT = 'edlora-prompt-states';
const STATES = 'hidden_states';

/**
 * States of the prompts, from `file` if it holds those of these prompts by this encoder; else they are made and written there.
 * @throws {NumericalError} if the encoder gives numbers that are not finite; {EdloraError} when the disk is full
 */
export async function promptStates(
  reader: TextReader,
  prompts: readonly string[],
  file: string,
  execution: ExecutionContext<Progress>,
): Promise<PromptStates> {
  const labels = { format: FORMAT, text_encoder: reader.hash, prompts: hashOf(prompts) };
  const kept = await openKept(file, labels);
  if (kept !== null) return kept;
  await writeStates(reader, prompts, file, labels, execution);
  return (await openKept(file, labels))!;
}

/** How many of the prompts are longer than what the encoder reads. */
export function cutPrompts(
  { tokenizer, encoder }: Omit<TextReader, 'hash'>,
  prompts: readonly string[],
): number {
  return prompts.filter((prompt) => tokenizer.encode(prompt).length > encoder.config.maxPositions).length;
}

/** `null` unless the file holds states under these labels. */
async function openKept(
  file: string,
  labels: Readonly<Record<string, string>>,
): Promise<PromptStates | null> {
  if (!existsSync(file)) return null;
  const opened = await openTensorFile(file).catch(() => null);
  if (opened === null || Object.entries(labels).some(([key, value]) => opened.metadata.get(key) !== value))
    return null;
  return statesOf(opened);
}

function statesOf({ tensors }: TensorFile): PromptStates | null {
  const [states, pooled] = [tensors.get(STATES), tensors.get('pooled')];
  const [start, origin] = [tensors.get('start'), tensors.get('origin')];
  if (!states || !pooled || !start || !origin || states.shape.length !== 3) return null;
  const [count, positions, width] = states.shape as [number, number, number];
  return {
    count,
    positions,
    width,
    start: readFloat32(start),
    origin: readFloat32(origin),
    pooled: readFloat32(pooled),
    of: (index) => readFloat32(sliceRows(states, index, 1)),
  };
}

async function writeStates(
  { encoder, tokenizer }: TextReader,
  prompts: readonly string[],
  file: string,
  labels: Readonly<Record<string, string>>,
  execution: ExecutionContext<Progress>,
): Promise<void> {
  const { config, weights } = encoder;
  const { maxPositions: tokens, hiddenSize: width } = config;
  const positions = tokens - 1;
  const table = new TokenEmbeddings(weights, config);
  const batch = Math.min(BATCH, prompts.length);
  const { graph } = buildTextEncoder(weights, config, { batch, tokens });
  const session = await execution.runtime.load(graph, 'every-step', execution);
  const encode = async (texts: readonly string[]) => {
    const filled = Array.from({ length: batch }, (_, i) => texts[i] ?? '');
    const ids = filled.map((text) => tokenizer.encodePadded(text, tokens).ids);
    const output = await session.run({ token_embeddings: table.lookUp(ids) });
    const { data } = output.last_hidden_state as Tensor<Float32Array>;
    const bad = data.find((value) => !Number.isFinite(value));
    if (bad !== undefined)
      throw new NumericalError(`text encoder: expected finite states, got ${bad}`, { value: bad });
    return texts.map((_, i) => {
      const own = data.subarray(i * tokens * width, (i + 1) * tokens * width);
      const at = pooledPosition(ids[i]!, config.eosTokenId) * width;
      return {
        states: own.subarray(width),
        start: own.subarray(0, width),
        pooled: own.slice(at, at + width),
      };
    });
  };
  try {
    const [empty] = await encode(['']);
    const pooled = new Float32Array(prompts.length * width);
    const { head, order } = inOneGo(
      layOutSafetensors(
        file,
        [
          // By its name it is the first in the file: pooled states are known when it is written.
          computedTensor(STATES, 'F32', [prompts.length, positions, width], () => new Uint8Array(0)),
          float32Tensor('origin', [width], empty!.pooled),
          float32Tensor('pooled', [prompts.length, width], pooled),
          float32Tensor('start', [width], empty!.start.slice()),
        ],
        labels,
      ),
    );
    const bytes = async function* (): AsyncGenerator<Uint8Array> {
      yield head;
      for (let first = 0; first < prompts.length; first += batch) {
        const part = await encode(prompts.slice(first, first + batch));
        const chunk = new Float32Array(part.length * positions * width);
        part.forEach((own, i) => {
          chunk.set(own.states, i * positions * width);
          pooled.set(own.pooled, (first + i) * width);
        });
        yield new Uint8Array(chunk.buffer);
        execution.progress?.({ done: Math.min(prompts.length, first + batch), total: prompts.length });
      }
      for (const tensor of order.slice(1)) yield readBytes(tensor);
    };
    await writeFileAtomically(path.resolve(file), bytes());
  } finally {
    await session.dispose();
  }
}

const hashOf = (prompts: readonly string[]): string => sha256().update(JSON.stringify(prompts)).digest('hex');
