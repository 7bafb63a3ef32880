/** The goldens of one family (SDXL, SD 2.x): fixtures/goldens-families, or another set of that layout. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { memoryTensor, type RawTensor, readBytes, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import type { Golden } from './golden-file.ts';
import { familiesPath } from './goldens.ts';
import { scratch } from './scratch.ts';

/** README of the goldens: text, UNet and VAE; the worst of float32 against float64 is 5.8e-6. */
export const TOLERANCE = { rtol: 2e-5, atol: 2e-5 };

/** Families that the set has. */
export const GOLDEN_FAMILIES: readonly string[] = readdirSync(familiesPath())
  .filter((name) => existsSync(familiesPath(name, 'text.json')))
  .sort();

export function familyJson<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(familiesPath(...parts), 'utf8')) as T;
}

type Original = string | { key: string; rows?: [number, number]; transposed?: boolean };

/** The miniature as one file in the original names: the set's own, or else made from the folder by the map of names. */
export async function familySingleFile(family: string): Promise<string> {
  const own = familiesPath(family, 'single_file.safetensors');
  if (existsSync(own)) return own;
  const { map, not_used: unread } = familyJson<{ map: Record<string, Original>; not_used: string[] }>(
    family,
    'single_file_key_map.json',
  );
  const parts = new Map<string, TensorFile>();
  const found = new Map<string, { at: number; tensor: RawTensor; transposed: boolean }[]>();
  for (const [ours, original] of Object.entries(map)) {
    const [part, name] = [ours.slice(0, ours.indexOf('/')), ours.slice(ours.indexOf('/') + 1)];
    if (!parts.has(part)) parts.set(part, await openWeights(familiesPath(family, 'model', part)));
    const tensor = parts.get(part)!.tensors.get(name)!;
    const {
      key,
      rows = [0, 0],
      transposed = false,
    } = typeof original === 'string' ? { key: original } : original;
    found.set(key, [...(found.get(key) ?? []), { at: rows[0], tensor, transposed }]);
  }
  const tensors = [...found].map(([key, pieces]) => joined(key, pieces));
  const file = scratch(`${family}.safetensors`);
  const idle = unread.map((key) => f32(key, [1], new Float32Array(1)));
  await writeSafetensors(file, [...tensors, ...idle]);
  return file;
}

function joined(key: string, pieces: { at: number; tensor: RawTensor; transposed: boolean }[]): RawTensor {
  const ordered = pieces.toSorted((a, b) => a.at - b.at);
  const [{ tensor, transposed }] = ordered as [(typeof ordered)[0]];
  const values = Float32Array.from(ordered.flatMap((piece) => [...readFloat32(piece.tensor)]));
  const shape = [ordered.reduce((sum, piece) => sum + piece.tensor.shape[0]!, 0), ...tensor.shape.slice(1)];
  // The original has 1×1 convolutions in the autoencoder's attention.
  const isConvolution = /\.attn_1\.(q|k|v|proj_out)\.weight$/.test(key);
  if (transposed) {
    const [rows, columns] = shape as [number, number];
    const turned = new Float32Array(values.length);
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) turned[j * rows + i] = values[i * columns + j]!;
    return f32(key, [columns, rows], turned);
  }
  return f32(key, isConvolution ? [...shape, 1, 1] : shape, values);
}

function f32(name: string, shape: readonly number[], values: Float32Array): RawTensor {
  return memoryTensor(name, 'F32', shape, new Uint8Array(values.buffer));
}

async function openWeights(folder: string): Promise<TensorFile> {
  const name = readdirSync(folder).find((file) => file.endsWith('.safetensors'))!;
  return openTensorFile(path.join(folder, name));
}

/** Bytes of a picture that lies among the numbers. */
export const bytesOf = (golden: Golden, name: string): Uint8Array => readBytes(golden.raw(name));
