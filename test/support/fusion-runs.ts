/** The fusion goldens as the solvers' own types: every layer of a reference run with its deltas and inputs. */
import { readdirSync } from 'node:fs';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat64 } from '../../src/formats/raw-tensor.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import { GramAccumulator } from '../../src/linalg/gram.ts';
import { type LowRank, lowRank, scale } from '../../src/linalg/low-rank.ts';
import { identity, type Matrix, matrix } from '../../src/linalg/matrix.ts';
import { goldenJson, goldenPath } from './goldens.ts';

const FOLDER = 'goldens-fusion/fusion';

/** An entry of `layers.json`. */
export interface LayerRecord {
  readonly part: string;
  readonly shape: readonly number[];
  readonly rows: readonly number[];
  readonly alphas: readonly number[];
  readonly ranks: readonly number[];
  readonly sum_of_ranks: number;
  readonly input_group: string;
  readonly underdetermined: boolean;
  readonly lbfgs_iters: number;
  readonly loss_W0: number;
  readonly loss_lbfgs: number;
  readonly loss_min: number;
  readonly loss_ridge: Readonly<Record<string, number>>;
  readonly lambda_: Readonly<Record<string, number>>;
  readonly delta_fro: number;
  readonly delta_fro_lbfgs: number;
  readonly x_sv_max: number;
  readonly lbfgs_delta_beyond_sum_of_ranks_rel: number;
  readonly delta_fro_ridge: Readonly<Record<string, number>>;
}

export interface GoldenLayer {
  /** With `.weight`, as the files name it. */
  readonly paramName: string;
  readonly layerName: string;
  readonly record: LayerRecord;
  /** W₀ [m, n]. */
  readonly base: Matrix;
  /** N, over all concepts. */
  readonly rows: number;
  readonly deltas: readonly (LowRank | null)[];
}

export interface FusionRun {
  readonly layers: readonly GoldenLayer[];
  /** Gram matrices per concept, by input group: layers with one input share the objects. */
  readonly grams: ReadonlyMap<string, readonly Matrix[]>;
  /** The rows as recorded, or a triangular factor with the same Gram matrix, per concept. */
  readonly features: (inputGroup: string) => readonly Matrix[];
  readonly open: (file: string) => Promise<TensorFile>;
}

/** Names of the reference runs. */
export function fusionRuns(): string[] {
  return readdirSync(goldenPath(FOLDER)).filter((entry) => /^run_\d+$/.test(entry));
}

/** A tensor as a matrix: first axis against all others. */
export function asMatrix(file: TensorFile, name: string): Matrix {
  const tensor = file.tensors.get(name);
  if (tensor === undefined) throw new Error(`${file.path} has no ${name}`);
  const data = readFloat64(tensor);
  const rows = tensor.shape[0]!;
  return matrix(rows, data.length / rows, data);
}

export async function openFusionRun(name: string): Promise<FusionRun> {
  const open = (file: string) => openTensorFile(goldenPath(FOLDER, name, file));
  const records = goldenJson<Record<string, LayerRecord>>(FOLDER, name, 'layers.json');
  const list = goldenJson<{ lora_path: string }[]>(FOLDER, `concept_list_${name.split('_')[1]}.json`);
  const concepts = await Promise.all(
    list.map(({ lora_path }) => openTensorFile(goldenPath(FOLDER, lora_path))),
  );
  const textEncoder = await openTensorFile(goldenPath(FOLDER, 'base_model/text_encoder/model.safetensors'));
  const unet = await openTensorFile(
    goldenPath(FOLDER, 'base_model/unet/diffusion_pytorch_model.safetensors'),
  );
  const inputs = await open('inputs.safetensors');

  const layers = Object.entries(records).map(([paramName, record]): GoldenLayer => {
    const isText = textEncoder.tensors.has(paramName);
    const layerName = paramName.slice(0, -'.weight'.length);
    const prefix = `params.${isText ? 'text_encoder' : 'unet'}.${layerName}`;
    const deltas = concepts.map((concept, i) => {
      if (!concept.tensors.has(`${prefix}.lora_up.weight`)) return null;
      const up = asMatrix(concept, `${prefix}.lora_up.weight`);
      return scale(lowRank(up, asMatrix(concept, `${prefix}.lora_down.weight`)), record.alphas[i]!);
    });
    return {
      paramName,
      layerName,
      record,
      base: asMatrix(isText ? textEncoder : unet, paramName),
      rows: record.rows.reduce((total, count) => total + count, 0),
      deltas,
    };
  });
  const widths = new Map(layers.map(({ record, base }) => [record.input_group, base.cols]));
  const features = (group: string) =>
    concepts.map((_, i) => rowsOrTriangle(inputs, `${group}|${i}`, widths.get(group)!));
  const grams = new Map([...widths.keys()].map((group) => [group, features(group).map(gramOfRows)]));
  return { layers, grams, features, open };
}

/** The reference's fused change, W − W₀, from full weights or factors. */
export function referenceChange(fused: TensorFile, { paramName, base }: GoldenLayer): LowRank {
  if (!fused.tensors.has(paramName)) {
    return lowRank(asMatrix(fused, `${paramName}|up`), asMatrix(fused, `${paramName}|down`));
  }
  const change = asMatrix(fused, paramName).data.map((w, i) => w - base.data[i]!);
  return { up: matrix(base.rows, base.cols, change), down: identity(base.cols) };
}

/** Rows as stored, or a packed triangular factor written out. */
function rowsOrTriangle(file: TensorFile, name: string, n: number): Matrix {
  const stored = file.tensors.get(name);
  if (stored === undefined) throw new Error(`${file.path} has no ${name}`);
  if (stored.shape.length === 2) return asMatrix(file, name);
  const data = readFloat64(stored);
  const triangle = matrix(n, n);
  for (let i = 0, at = 0; i < n; at += n - i, i++)
    triangle.data.set(data.subarray(at, at + n - i), i * n + i);
  return triangle;
}

function gramOfRows(rows: Matrix): Matrix {
  const gram = new GramAccumulator(rows.cols);
  gram.addRows(rows.data);
  return gram.toMatrix();
}
