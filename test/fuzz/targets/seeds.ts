/** What seeds are made of: fixtures, tiny tensors, texts. The same bytes each time. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { float32Tensor } from '../../../src/formats/raw-tensor.ts';
import type { TorchValue } from '../../../src/formats/torch-value.ts';
import { torchTensor, writeTorchZip } from '../../../src/formats/torch-writer.ts';
import { packageRoot } from '../../../src/package-root.ts';
import type { Form } from '../mutate/mutate.ts';
import { type PlainTensor, writePlain } from '../mutate/safetensors.ts';
import type { SeedFile } from '../target.ts';

/** Absolute path of a fixture. */
export function fixturePath(name: string): string {
  return path.join(packageRoot(), 'fixtures', name);
}

/** A fixture's bytes. */
export function fixture(name: string): Buffer {
  return readFileSync(fixturePath(name));
}

export function seedFile(name: string, form: Form, content: Uint8Array | string): SeedFile {
  return { name, form, bytes: typeof content === 'string' ? Buffer.from(content) : content };
}

/** Small numbers that differ, the same each time. */
export function values(count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => ((i * 37) % 101) / 101 - 0.45);
}

/** A tensor of float32. */
export function plain(name: string, ...shape: number[]): PlainTensor {
  const data = values(shape.reduce((a, b) => a * b, 1));
  return { name, dtype: 'F32', shape, data: Buffer.from(data.buffer) };
}

/** A safetensors file. */
export function safetensors(
  name: string,
  tensors: readonly PlainTensor[],
  metadata: Readonly<Record<string, string>> = {},
): SeedFile {
  return seedFile(
    name,
    'safetensors',
    writePlain({ tensors: [...tensors], metadata: Object.entries(metadata) }),
  );
}

/** A torch zip file. */
export async function torchZip(name: string, value: TorchValue): Promise<SeedFile> {
  const folder = mkdtempSync(path.join(tmpdir(), 'edlora-seed-'));
  try {
    const file = path.join(folder, 'seed.pt');
    await writeTorchZip(file, value);
    return seedFile(name, 'torch-zip', readFileSync(file));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A tensor inside a torch file. */
export function torch(...shape: number[]) {
  return torchTensor(float32Tensor('', shape, values(shape.reduce((a, b) => a * b, 1))));
}
