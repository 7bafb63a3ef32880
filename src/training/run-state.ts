/**
 * The state of a run in one safetensors file: what is trained, the optimiser's means, the losses so far. Random numbers
 * need no state, since each step has a generator of its own (batch-order.ts).
 */
import { existsSync } from 'node:fs';
import { z } from 'zod';
import { FormatError, UsageError } from '../errors.ts';
import { float32Tensor, type RawTensor, readFloat32 } from '../formats/raw-tensor.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { openTensorFile } from '../formats/tensor-file.ts';
import type { AdamWState } from './adamw.ts';
import type { ResolvedSettings } from './methods/method.ts';
import type { Parameter } from './trainables.ts';

export interface StepLog {
  /** From 1. */
  readonly step: number;
  readonly loss: number;
  /** Mean norm of the embeddings after the step; 0 without words. */
  readonly embeddingNorm: number;
}

export interface RunState {
  /** Steps done. */
  step: number;
  /** Embeddings reached their norm and stay. */
  stopped: boolean;
  readonly optimizer: ReadonlyMap<string, AdamWState>;
  readonly log: StepLog[];
}

const header = z.object({
  format: z.literal('edlora-training-state'),
  step: z.coerce.number().int().min(0),
  stopped: z.enum(['true', 'false']).transform((value) => value === 'true'),
  settings: z.string().transform((json) => JSON.parse(json) as Record<string, unknown>),
});

/** Settings that may differ between the parts of one run. */
const FREE: ReadonlySet<string> = new Set([
  'threads',
  'checkpointBlocks',
  'saveEvery',
  'sampleEvery',
  'samplePrompt',
  'format',
  'dtype',
  'data',
  'captionFolder',
  'classData',
]);

/** Write the state; the file before it stays until this one is complete. @throws {EdloraError} when the disk is full */
export async function saveState(
  file: string,
  settings: ResolvedSettings,
  parameters: readonly Parameter[],
  { step, stopped, optimizer, log }: RunState,
): Promise<void> {
  const tensors: RawTensor[] = parameters.flatMap(({ name, data }) => {
    const { mean, square } = optimizer.get(name)!;
    return [
      float32Tensor(`parameter|${name}`, [data.length], data),
      float32Tensor(`mean|${name}`, [mean.length], mean),
      float32Tensor(`square|${name}`, [square.length], square),
    ];
  });
  const steps = Float32Array.from(parameters, ({ name }) => optimizer.get(name)!.step);
  tensors.push(float32Tensor('optimizer_steps', [steps.length], steps));
  tensors.push(
    float32Tensor(
      'loss',
      [log.length],
      Float32Array.from(log, ({ loss }) => loss),
    ),
  );
  tensors.push(
    float32Tensor(
      'embedding_norm',
      [log.length],
      Float32Array.from(log, ({ embeddingNorm }) => embeddingNorm),
    ),
  );
  await writeSafetensors(file, tensors, {
    format: 'edlora-training-state',
    step: String(step),
    stopped: String(stopped),
    settings: JSON.stringify(settings),
  });
}

/**
 * Put a saved state into parameters and optimiser.
 * @returns false if there is no file
 * @throws {UsageError} if it is of a run with other settings, which are named
 * @throws {FormatError} if the file is damaged
 */
export async function restoreState(
  file: string,
  settings: ResolvedSettings,
  parameters: readonly Parameter[],
  state: RunState,
): Promise<boolean> {
  if (!existsSync(file)) return false;
  const opened = await openTensorFile(file);
  const parsed = header.safeParse(Object.fromEntries(opened.metadata));
  if (!parsed.success) throw new FormatError(file, 'expected the state of a training run');
  const { data } = parsed;
  const different = Object.keys(settings).filter(
    (name) =>
      !FREE.has(name) &&
      JSON.stringify(data.settings[name]) !== JSON.stringify(settings[name as keyof ResolvedSettings]),
  );
  if (different.length > 0) {
    throw new UsageError(
      `${file}: the run had other settings (${different.join(', ')}); go on with the same ones, or start anew without --resume`,
    );
  }
  const read = (name: string, length: number): Float32Array => {
    const raw = opened.tensors.get(name);
    if (raw === undefined || raw.shape.join() !== String(length)) {
      throw new FormatError(file, `expected ${name} with ${length} numbers`, { tensor: name });
    }
    return readFloat32(raw);
  };
  const steps = read('optimizer_steps', parameters.length);
  parameters.forEach(({ name, data: target }, i) => {
    target.set(read(`parameter|${name}`, target.length));
    const own = state.optimizer.get(name)!;
    own.mean.set(read(`mean|${name}`, target.length));
    own.square.set(read(`square|${name}`, target.length));
    own.step = steps[i]!;
  });
  const [losses, norms] = [read('loss', data.step), read('embedding_norm', data.step)];
  state.log.push(...Array.from(losses, (loss, i) => ({ step: i + 1, loss, embeddingNorm: norms[i]! })));
  state.step = data.step;
  state.stopped = data.stopped;
  return true;
}
