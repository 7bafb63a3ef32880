/** Concept files made up for one test. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';
import { float32Tensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'edlora-concepts-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;

/** A fresh path in a folder that goes away with the test file. */
export function scratch(name: string): string {
  return path.join(mkdtempSync(path.join(folder, `${count++}-`)), name);
}

/** A float32 tensor that counts 1, 2, 3 … unless `data` is given. */
export function tensor(name: string, shape: readonly number[], data?: readonly number[]): RawTensor {
  const size = shape.reduce((product, length) => product * length, 1);
  return float32Tensor(name, shape, Float32Array.from(data ?? Array.from({ length: size }, (_, i) => i + 1)));
}

/** Write tensors to a safetensors file of its own. */
export async function tensorFile(
  tensors: readonly RawTensor[],
  metadata: Record<string, string> = {},
): Promise<string> {
  const file = scratch('concept.safetensors');
  await writeSafetensors(file, tensors, metadata);
  return file;
}
