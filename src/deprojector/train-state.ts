/** The state of a deprojector's training in one file: parameters, the optimiser's means, the losses so far. */
import { existsSync } from 'node:fs';
import { FormatError, UsageError } from '../errors.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import { float32Tensor, type RawTensor, readFloat32 } from '../formats/raw-tensor.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { sealOf } from '../formats/seal.ts';
import type { AdamWState } from '../optim/adamw.ts';
import type { DeprojectorSettings } from './settings.ts';

/** A parameter that is trained. */
export interface TrainedParameter {
  readonly shape: readonly number[];
  readonly data: Float32Array;
  readonly optimizer: AdamWState;
}

export interface DeprojectorState {
  readonly parameters: ReadonlyMap<string, TrainedParameter>;
  /** Of every step done. */
  readonly losses: number[];
}

/** What a run must have in common with the one that it goes on with. */
export interface RunIdentity {
  readonly settings: DeprojectorSettings;
  /** Of encoder, projection and prompts. */
  readonly data: string;
}

const FORMAT = 'edlora-deprojector-state';
/** Settings that may differ between the parts of one run. */
const FREE: ReadonlySet<string> = new Set(['saveEvery']);

/** @throws {EdloraError} when the disk is full: the state before stays */
export async function saveDeprojectorState(
  file: string,
  { settings, data }: RunIdentity,
  { parameters, losses }: DeprojectorState,
): Promise<void> {
  const tensors: RawTensor[] = [...parameters].flatMap(([name, { shape, data: own, optimizer }]) => [
    float32Tensor(`parameter|${name}`, shape, own),
    float32Tensor(`mean|${name}`, shape, optimizer.mean),
    float32Tensor(`square|${name}`, shape, optimizer.square),
  ]);
  tensors.push(float32Tensor('loss', [losses.length], Float32Array.from(losses)));
  const labels = { format: FORMAT, data, settings: JSON.stringify(settings) };
  await writeSafetensors(file, tensors, { ...labels, sha256: sealOf(labels, tensors) });
}

/**
 * Put a saved state into `state`.
 * @returns false if there is no file
 * @throws {UsageError} if it is of a run with other settings or other data; {FormatError} if the file is damaged
 */
export async function restoreDeprojectorState(
  file: string,
  { settings, data }: RunIdentity,
  { parameters, losses }: DeprojectorState,
): Promise<boolean> {
  if (!existsSync(file)) return false;
  const { metadata, tensors } = await openTensorFile(file);
  const { sha256, ...labels } = Object.fromEntries(metadata);
  if (labels.format !== FORMAT) throw new FormatError(file, 'expected the state of a deprojector’s training');
  if (sealOf(labels, tensors.values()) !== sha256) {
    throw new FormatError(
      file,
      'expected what was saved, got something else: the file is damaged; start anew',
    );
  }
  const saved = JSON.parse(labels.settings ?? '{}') as Record<string, unknown>;
  const different = Object.entries(settings)
    .filter(([name, value]) => !FREE.has(name) && saved[name] !== value)
    .map(([name]) => name);
  if (labels.data !== data) different.push('prompts or models');
  if (different.length > 0) {
    throw new UsageError(
      `${file}: the run had other settings (${different.join(', ')}); go on with the same ones, or start anew without \`resume\``,
    );
  }
  const own = readFloat32(tensors.get('loss')!);
  losses.push(...own);
  for (const [name, { data: target, optimizer }] of parameters) {
    target.set(readFloat32(tensors.get(`parameter|${name}`)!));
    optimizer.mean.set(readFloat32(tensors.get(`mean|${name}`)!));
    optimizer.square.set(readFloat32(tensors.get(`square|${name}`)!));
    optimizer.step = own.length;
  }
  return true;
}
