/**
 * The state of a run in one safetensors file: what is trained, the optimiser's means, the losses so far. Random numbers
 * need no state, since each step has a generator of its own (batch-order.ts).
 */

import { existsSync } from 'node:fs';
import { copyFile, link, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { FormatError, UsageError } from '../errors.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import { float32Tensor, type RawTensor, readFloat32 } from '../formats/raw-tensor.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { sealOf } from '../formats/seal.ts';
import { onDisk } from '../io/on-disk.ts';
import { forget, temporaryBeside } from '../io/temporary-names.ts';
import type { AdamWState } from '../optim/adamw.ts';
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

/** More steps than anybody trains; a log of them still fits into memory. */
const MAX_STEPS = 100_000_000;

/** Settings are a few kilobytes of JSON. */
const MAX_SETTINGS_CHARACTERS = 1 << 20;

const header = z.object({
  format: z.literal('edlora-training-state'),
  step: z
    .string()
    .regex(/^\d{1,9}$/, 'expected a whole number')
    .transform(Number)
    .pipe(z.number().max(MAX_STEPS)),
  stopped: z.enum(['true', 'false']).transform((value) => value === 'true'),
  settings: z
    .string()
    .max(MAX_SETTINGS_CHARACTERS)
    .transform((json, context): Record<string, unknown> => {
      try {
        const value: unknown = JSON.parse(json);
        if (typeof value === 'object' && value !== null && !Array.isArray(value))
          return withNamesOfNow(value as Record<string, unknown>);
      } catch {
        // Said below.
      }
      context.addIssue('expected settings by name, in JSON');
      return z.NEVER;
    }),
  /** Of everything else; earlier versions wrote none. */
  sha256: z.string().optional(),
});

/** Settings under the names of earlier versions. */
const FORMER_NAMES: Readonly<Record<string, string>> = { where: 'layers', textWhere: 'textLayers' };

const withNamesOfNow = (settings: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(settings).map(([name, value]) => [FORMER_NAMES[name] ?? name, value]));

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

/** Where the state before the last one is kept. */
export const previousStateFile = (file: string): string =>
  file.replace(/(\.safetensors)?$/, '.previous.safetensors');

/**
 * Write the state; the file before it stays until this one is complete, and then as `previousStateFile`.
 * @param isFirst whether this run has saved none yet: a state of an earlier run is not kept as one of this
 * @throws {EdloraError} when the disk is full
 */
export async function saveState(
  file: string,
  settings: ResolvedSettings,
  parameters: readonly Parameter[],
  { step, stopped, optimizer, log }: RunState,
  isFirst = false,
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
  const labels = {
    format: 'edlora-training-state',
    step: String(step),
    stopped: String(stopped),
    settings: JSON.stringify(settings),
  };
  if (!isFirst) await keepAs(file, previousStateFile(file));
  await writeSafetensors(file, tensors, { ...labels, sha256: sealOf(labels, tensors) });
  if (isFirst) await rm(previousStateFile(file), { force: true }).catch(() => undefined);
}

/** Give a file a second name, which it keeps when another takes its first. A disk without such names gets a copy. */
async function keepAs(file: string, name: string): Promise<void> {
  if (!existsSync(file)) return;
  const temporary = temporaryBeside(name);
  try {
    await onDisk(name, async () => {
      await link(file, temporary).catch(() => copyFile(file, temporary));
      await rename(temporary, name);
    });
  } finally {
    await rm(temporary, { force: true }).catch(() => undefined);
    forget(temporary);
  }
}

/** A state as it was saved, checked. */
interface SavedState {
  readonly step: number;
  readonly stopped: boolean;
  readonly settings: Readonly<Record<string, unknown>>;
  /** Numbers of a tensor by name. */
  read(name: string): Float32Array;
}

/**
 * Put a saved state into parameters and optimiser.
 * @returns false if there is no file
 * @throws {UsageError} if it is of a run with other settings, which are named
 * @throws {FormatError} if the file is damaged; the message names the state before it, and how to go on from there
 */
export async function restoreState(
  file: string,
  settings: ResolvedSettings,
  parameters: readonly Parameter[],
  state: RunState,
): Promise<boolean> {
  let saved: SavedState;
  try {
    if (!existsSync(file) && !existsSync(previousStateFile(file))) return false;
    saved = await openState(file, parameters);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    const way = await wayOut(file, parameters);
    throw new FormatError(file, `${error.message.replace(`${file}: `, '')}; ${way}`, { cause: error });
  }
  const different = Object.keys(settings).filter(
    (name) =>
      !FREE.has(name) &&
      JSON.stringify(saved.settings[name]) !== JSON.stringify(settings[name as keyof ResolvedSettings]),
  );
  if (different.length > 0) {
    throw new UsageError(
      `${file}: the run had other settings (${different.join(', ')}); go on with the same ones, or start anew without \`resume\``,
    );
  }
  const steps = saved.read('optimizer_steps');
  parameters.forEach(({ name, data: target }, i) => {
    target.set(saved.read(`parameter|${name}`));
    const own = state.optimizer.get(name)!;
    own.mean.set(saved.read(`mean|${name}`));
    own.square.set(saved.read(`square|${name}`));
    own.step = steps[i]!;
  });
  const [losses, norms] = [saved.read('loss'), saved.read('embedding_norm')];
  for (const [i, loss] of losses.entries()) {
    state.log.push({ step: i + 1, loss, embeddingNorm: norms[i]! });
  }
  state.step = saved.step;
  state.stopped = saved.stopped;
  return true;
}

/** Open a state and check all of it. @throws {FormatError} naming what is wrong, and in which tensor */
async function openState(file: string, parameters: readonly Parameter[]): Promise<SavedState> {
  const { metadata, tensors } = await openTensorFile(file);
  const parsed = safeParse(header, Object.fromEntries(metadata));
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new FormatError(
      file,
      `expected the state of a training run: ${issue.path.join('.') || 'header'}: ${issue.message}`,
    );
  }
  const { step, stopped, settings, sha256 } = parsed.data;
  if (sha256 !== undefined) {
    const { sha256: _, ...labels } = Object.fromEntries(metadata);
    if (sealOf(labels, tensors.values()) !== sha256)
      throw new FormatError(file, 'expected what was saved, got something else: the file is damaged');
  }
  const numbers = new Map<string, Float32Array>();
  const check = (name: string, length: number, least: number, most: number, whole = false): void => {
    const raw = tensors.get(name);
    if (raw?.dtype !== 'F32' || raw.shape.length !== 1 || raw.shape[0] !== length) {
      const got = raw === undefined ? 'none' : `${raw.dtype} [${raw.shape.join(', ')}]`;
      throw new FormatError(file, `expected ${name} with ${length} numbers of F32, got ${got}`, {
        tensor: name,
      });
    }
    const values = readFloat32(raw);
    const bad = values.find((value) => !(value >= least && value <= most && (!whole || value % 1 === 0)));
    if (bad !== undefined) {
      const range = `${whole ? 'whole' : 'finite'} numbers${least === 0 ? ' from 0' : ''}`;
      throw new FormatError(file, `${name}: expected ${range}, got ${bad}`, { tensor: name });
    }
    numbers.set(name, values);
  };
  const any = 3.4028234663852886e38;
  check('optimizer_steps', parameters.length, 0, MAX_STEPS, true);
  for (const { name, data } of parameters) {
    check(`parameter|${name}`, data.length, -any, any);
    check(`mean|${name}`, data.length, -any, any);
    check(`square|${name}`, data.length, 0, any);
  }
  check('loss', step, -any, any);
  check('embedding_norm', step, 0, any);
  return { step, stopped, settings, read: (name) => numbers.get(name)! };
}

/** What to do about a state that cannot be read. */
async function wayOut(file: string, parameters: readonly Parameter[]): Promise<string> {
  const previous = previousStateFile(file);
  try {
    const { step } = await openState(previous, parameters);
    return `the state before it, after step ${step}, is whole: rename ${previous} to ${path.basename(file)}, and \`resume\` goes on from there`;
  } catch {
    return 'there is no whole state before it; start anew without `resume`, with `force`';
  }
}
