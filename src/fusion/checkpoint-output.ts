/**
 * A complete diffusers folder with fused weights, the concepts' tokens in its tokenizer, and Mix-of-Show's
 * `new_concept_cfg.json`. Weights stream tensor by tensor and keep the base's dtype.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { FormatError, NumericalError, UsageError } from '../errors.ts';
import { encodeFloat, isFloatDType, type WritableFloat } from '../formats/dtype.ts';
import { excerpt } from '../formats/excerpt.ts';
import { MAX_CONFIG_BYTES, readJsonFile } from '../formats/json-file.ts';
import { setJsonField } from '../formats/json-text.ts';
import {
  computedRows,
  computedTensor,
  type RawTensor,
  readFloat32,
  sliceRows,
} from '../formats/raw-tensor.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { parseJson } from '../formats/strict-json.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { copyTree } from '../io/copy-folder.ts';
import { readTextFile } from '../io/read-small-file.ts';
import { makeFolder, writeFileAtomically } from '../io/replace-file.ts';
import { writeFolderAtomically } from '../io/replace-folder.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { matrix } from '../linalg/matrix.ts';
import { multiply } from '../linalg/products.ts';
import { TOKEN_TABLE } from '../models/clip/text-encoder.ts';
import type { TextEncoderLayout } from '../models/families/family.ts';
import { type ComponentId, layerId } from '../models/families/layer-table.ts';
import type { Fusion } from './fusion.ts';

/**
 * Write the model. The VAE, scheduler and other parts are copied; unet and text_encoder are rewritten.
 * @param folder appears complete or not at all
 * @param signal stops between two tensors or parts by throwing its reason
 * @throws {UsageError} if the base is a single file: it has no parts to copy; or as `checkReplaceableFolder`
 */
export async function writeFusedCheckpoint(
  fusion: Fusion,
  folder: string,
  signal?: AbortSignal,
): Promise<void> {
  const { base } = fusion;
  if (base.layout !== 'diffusers') {
    throw new UsageError(
      `${base.path}: \`checkpoint\` needs a diffusers folder as \`base\`, got a single file`,
    );
  }
  await writeFolderAtomically(folder, async (temporary) => {
    const index = path.join(base.path, 'model_index.json');
    const rewritten = new Set<string>(base.parts.changeable().map(([id]) => id));
    const parts = existsSync(index) ? Object.entries(await readJsonObject(index)) : [];
    for (const [part, value] of parts) {
      // It becomes a folder's name, here and there.
      if (!/^\w+$/.test(part)) {
        throw new FormatError(index, `expected the name of a part, got "${excerpt(part)}"`);
      }
      const present = Array.isArray(value) && value[0] !== null && existsSync(path.join(base.path, part));
      signal?.throwIfAborted();
      if (!present || rewritten.has(part)) continue;
      await copyTree(path.join(base.path, part), path.join(temporary, part));
    }
    await writePrediction(fusion, temporary);
    if (existsSync(index)) await copyTree(index, path.join(temporary, 'model_index.json'));
    const { unet, textEncoders } = base.family.base;
    await writeUnet(fusion, path.join(temporary, unet.id), signal);
    for (const encoder of textEncoders) {
      await writeTextEncoder(fusion, encoder, path.join(temporary, encoder.id), signal);
      await writeTokenizer(fusion, path.join(temporary, encoder.tokenizer));
    }
    await writeJson(path.join(temporary, 'new_concept_cfg.json'), fusion.vocabulary.conceptConfig());
  });
}

/** What the user said that the base predicts, where whoever loads the model looks for it. */
async function writePrediction({ base }: Fusion, folder: string): Promise<void> {
  const { chosenPrediction, config } = base.schedule;
  if (chosenPrediction === undefined) return;
  const file = path.join(folder, 'scheduler', 'scheduler_config.json');
  const text = existsSync(file) ? await readTextFile(file, MAX_CONFIG_BYTES) : JSON.stringify(config);
  await makeFolder(path.dirname(file));
  await writeFileAtomically(file, [setJsonField(text, 'prediction_type', chosenPrediction)]);
}

async function readJsonObject(file: string): Promise<object> {
  const value = await readJsonFile(file);
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw new FormatError(file, 'expected a JSON object');
}

async function writeUnet(fusion: Fusion, folder: string, signal: AbortSignal | undefined): Promise<void> {
  const { parts, family, path: base } = fusion.base;
  const { id, stems, canonical } = family.base.unet;
  await makeFolder(folder);
  await copyTree(path.join(base, id, 'config.json'), path.join(folder, 'config.json'));
  const tensors = withDeltas(fusion, id, parts.unet.file, canonical, signal);
  await writeSafetensors(path.join(folder, `${stems[0]}.safetensors`), tensors, { format: 'pt' });
}

async function writeTextEncoder(
  fusion: Fusion,
  { id, stems, canonical }: TextEncoderLayout,
  folder: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { parts, path: base } = fusion.base;
  await makeFolder(folder);
  const config = await readTextFile(path.join(base, id, 'config.json'), MAX_CONFIG_BYTES);
  const rows = fusion.vocabulary.embeddingRows(id);
  const tensors = withDeltas(fusion, id, parts.get(id).file, canonical, signal).map((tensor) =>
    canonical(tensor.name) === TOKEN_TABLE ? withRows(tensor, rows) : tensor,
  );
  const vocabSize = fusion.vocabulary.tokenizer.vocabSize;
  await writeFileAtomically(path.join(folder, 'config.json'), [
    setJsonField(config, 'vocab_size', vocabSize),
  ]);
  await writeSafetensors(path.join(folder, `${stems[0]}.safetensors`), tensors, { format: 'pt' });
}

/** The base's files, with the new tokens where both older and newer readers look for them. */
async function writeTokenizer(fusion: Fusion, folder: string): Promise<void> {
  const { tokens } = fusion.vocabulary;
  const added = tokens.flatMap(({ names, ids }) => names.map((name, i) => [name, ids[i]!] as const));
  const addedFile = path.join(folder, 'added_tokens.json');
  const before = existsSync(addedFile) ? await readJsonObject(addedFile) : {};
  await writeJson(addedFile, { ...before, ...Object.fromEntries(added) });
  const configFile = path.join(folder, 'tokenizer_config.json');
  const config = existsSync(configFile) ? await readTextFile(configFile, MAX_CONFIG_BYTES) : '{}';
  const plain = { lstrip: false, normalized: true, rstrip: false, single_word: false, special: false };
  const decoder = {
    ...(parseJson(config, configFile) as { added_tokens_decoder?: object }).added_tokens_decoder,
    ...Object.fromEntries(added.map(([content, id]) => [String(id), { content, ...plain }])),
  };
  await writeFileAtomically(configFile, [setJsonField(config, 'added_tokens_decoder', decoder)]);
}

/** Every tensor of a component, fused layers as W₀ + ΔW, computed when written. */
function withDeltas(
  { layers }: Fusion,
  component: ComponentId,
  file: TensorFile,
  canonical: (name: string) => string,
  signal: AbortSignal | undefined,
): RawTensor[] {
  return [...file.tensors.values()].map((tensor) => {
    const layerName = canonical(tensor.name).replace(/\.weight$/, '');
    const fused = layers.get(layerId(component, layerName));
    return fused === undefined || !tensor.name.endsWith('.weight')
      ? tensor
      : withDelta(tensor, fused.delta, signal);
  });
}

/** Multiplications in one piece of a weight: some hundredths of a second. */
const STEP_PRODUCTS = 1 << 26;

/** W₀ + ΔW in W₀'s dtype and shape. @throws {NumericalError} on reading, if the sum overflows the dtype */
function withDelta(tensor: RawTensor, delta: LowRank, signal: AbortSignal | undefined): RawTensor {
  const { name, dtype, shape } = tensor;
  const { up, down } = delta;
  const rows = Math.max(1, Math.floor(STEP_PRODUCTS / Math.max(1, up.cols * down.cols)));
  return computedRows(name, dtype, shape, rows, (first, count) => {
    signal?.throwIfAborted();
    const own = matrix(count, up.cols, up.data.subarray(first * up.cols, (first + count) * up.cols));
    const change = multiply(own, down).data;
    const sum = readFloat32(sliceRows(tensor, first, count)).map((value, i) => value + change[i]!);
    return encodeFinite(name, sum, dtype as WritableFloat);
  });
}

/** The table with rows appended, in its own dtype. */
function withRows(table: RawTensor, rows: Float32Array): RawTensor {
  const { name, dtype, shape } = table;
  const [count, width] = shape as [number, number];
  return computedTensor(name, dtype, [count + rows.length / width, width], () => {
    const all = new Float32Array(count * width + rows.length);
    all.set(readFloat32(table));
    all.set(rows, count * width);
    return encodeFinite(name, all, dtype as WritableFloat);
  });
}

function encodeFinite(name: string, values: Float32Array, dtype: WritableFloat): Uint8Array {
  if (!isFloatDType(dtype)) throw new UsageError(`${name}: expected a floating-point weight, got ${dtype}`);
  const limit = dtype === 'F16' ? 65_504 : Number.MAX_VALUE;
  const bad = values.find((value) => !(Math.abs(value) <= limit));
  if (bad !== undefined)
    throw new NumericalError(`expected numbers that ${dtype} can hold, got ${bad}`, {
      layer: name,
      value: bad,
    });
  return encodeFloat(values, dtype);
}

function writeJson(file: string, value: unknown): Promise<void> {
  return writeFileAtomically(file, [`${JSON.stringify(value, null, 2)}\n`]);
}
