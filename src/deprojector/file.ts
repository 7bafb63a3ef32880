/** Files of deprojectors and of states, both safetensors: what they hold stands in their metadata. */
import path from 'node:path';
import { z } from 'zod';
import { FormatError } from '../errors.ts';
import { areFinite } from '../formats/finite.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import type { OwnFormat } from '../formats/own-files.ts';
import { float32Tensor, type RawTensor, readBytes, readFloat32 } from '../formats/raw-tensor.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { toolVersion } from '../package-root.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { type Deprojector, planOf } from './deprojector.ts';
import { DEPROJECTOR_MODEL_NAMES, type DeprojectorModelName } from './models/index.ts';
import { buildStep } from './network.ts';

const DEPROJECTOR_FORMAT = 'edlora-deprojector' satisfies OwnFormat;
const STATES_FORMAT = 'edlora-text-states' satisfies OwnFormat;

const whole = z
  .string()
  .regex(/^[1-9]\d{0,4}$/, 'expected a whole number from 1 to 99999')
  .transform(Number);
const positive = z.string().transform(Number).pipe(z.number().positive());
const sha = z.string().regex(/^[0-9a-f]{64}$/, 'expected a sha256');

const headerSchema = z.object({
  format: z.literal(DEPROJECTOR_FORMAT),
  model: z.enum(DEPROJECTOR_MODEL_NAMES as [DeprojectorModelName, ...DeprojectorModelName[]]),
  width: whole,
  inner_width: whole,
  heads: whole,
  activation: z.enum(['quick_gelu', 'gelu']),
  layer_norm_epsilon: positive,
  vicinity: whole,
  positions: whole,
  projection: whole,
  embedding_length: positive,
  text_encoder: sha,
});

/** What the constants of a file are called; parameters have the names of their layers. */
const CONSTANTS = ['start', 'origin', 'projection', 'inverse'] as const;

/**
 * Write a deprojector.
 * @param notes further metadata, e.g. how it was trained
 * @throws {EdloraError} when the disk is full
 */
export async function writeDeprojector(
  file: string,
  { model, shape, positions, space, start, textEncoder, weights }: Deprojector,
  notes: Readonly<Record<string, string>> = {},
): Promise<void> {
  const { parameters } = buildStep(planOf({ model, shape, positions }), 1, false);
  const { width, projectionDim, projection, inverse, length, origin } = space;
  const tensors: RawTensor[] = [
    ...[...parameters.keys()].map((name) => weights.get(name)!),
    float32Tensor('start', [width], start),
    float32Tensor('origin', [width], origin),
    float32Tensor('projection', [projectionDim, width], projection),
    float32Tensor('inverse', [width, projectionDim], inverse),
  ];
  await writeSafetensors(path.resolve(file), tensors, {
    format: DEPROJECTOR_FORMAT,
    model,
    width: String(width),
    inner_width: String(shape.intermediateSize),
    heads: String(shape.numHeads),
    activation: shape.hiddenAct,
    layer_norm_epsilon: String(shape.layerNormEpsilon),
    vicinity: String(shape.vicinity),
    positions: String(positions),
    projection: String(projectionDim),
    embedding_length: String(length),
    text_encoder: textEncoder,
    tool: `edlora ${toolVersion()}`,
    ...notes,
  });
}

/**
 * Open a deprojector; its parameters stay in the file.
 * @throws {FormatError} if it is none, damaged, lacks a tensor, has one too many or of another shape, or holds numbers that are
 *   not finite
 */
export async function openDeprojector(file: string): Promise<Deprojector> {
  const opened = await openTensorFile(file);
  const parsed = safeParse(headerSchema, Object.fromEntries(opened.metadata));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new FormatError(
      file,
      `expected a deprojector, as \`trainDeprojector\` writes it: ${issue!.path.join('.') || 'metadata'}: ${issue!.message}`,
    );
  }
  const header = parsed.data;
  if (header.width % header.heads !== 0) {
    throw new FormatError(
      file,
      `heads: expected a divisor of the width ${header.width}, got ${header.heads}`,
    );
  }
  const { width, positions, projection, model } = header;
  const shape = {
    hiddenSize: width,
    intermediateSize: header.inner_width,
    numHeads: header.heads,
    hiddenAct: header.activation,
    layerNormEpsilon: header.layer_norm_epsilon,
    vicinity: header.vicinity,
  };
  const { parameters } = buildStep(planOf({ model, shape, positions }), 1, false);
  const constants = {
    start: [width],
    origin: [width],
    projection: [projection, width],
    inverse: [width, projection],
  };
  checkTensors(opened, file, new Map([...parameters, ...Object.entries(constants)]));
  const numbers = (name: (typeof CONSTANTS)[number]): Float32Array => readFloat32(opened.tensors.get(name)!);
  return {
    label: file,
    model,
    shape,
    positions,
    space: {
      width,
      projectionDim: projection,
      projection: numbers('projection'),
      inverse: numbers('inverse'),
      length: header.embedding_length,
      origin: numbers('origin'),
    },
    start: numbers('start'),
    textEncoder: header.text_encoder,
    weights: { label: file, get: (name) => opened.tensors.get(name) },
  };
}

/** States of a text encoder, and where they come from. */
export interface TextStates {
  /** [T, D], all positions. */
  readonly states: Tensor<Float32Array>;
  /** `textEncoderHash` of the encoder that they are of. */
  readonly textEncoder: string;
  /** What was embedded, in words. */
  readonly source: string;
}

/** @throws {EdloraError} when the disk is full */
export async function writeStates(file: string, { states, textEncoder, source }: TextStates): Promise<void> {
  await writeSafetensors(path.resolve(file), [float32Tensor('states', states.shape, states.data)], {
    format: STATES_FORMAT,
    text_encoder: textEncoder,
    source,
    tool: `edlora ${toolVersion()}`,
  });
}

const statesSchema = z.object({
  format: z.literal(STATES_FORMAT),
  text_encoder: sha,
  source: z.string().default(''),
});

/** @throws {FormatError} if the file holds no states, or numbers that are not finite */
export async function openStates(file: string): Promise<TextStates> {
  const opened = await openTensorFile(file);
  const parsed = safeParse(statesSchema, Object.fromEntries(opened.metadata));
  const raw = opened.tensors.get('states');
  if (!parsed.success || raw?.shape.length !== 2) {
    throw new FormatError(file, 'expected states of a text encoder, as `deprojectParts` makes them');
  }
  checkTensors(opened, file, new Map([['states', raw.shape]]));
  return {
    states: float32(raw.shape, readFloat32(raw)),
    textEncoder: parsed.data.text_encoder,
    source: parsed.data.source,
  };
}

/** @throws {FormatError} unless the file holds exactly these tensors in float32, all of them finite */
function checkTensors(
  { tensors }: TensorFile,
  file: string,
  shapes: ReadonlyMap<string, readonly number[]>,
): void {
  const surplus = [...tensors.keys()].find((name) => !shapes.has(name));
  if (surplus !== undefined)
    throw new FormatError(file, `expected no tensor "${surplus}"`, { tensor: surplus });
  for (const [name, shape] of shapes) {
    const raw = tensors.get(name);
    if (raw?.dtype !== 'F32' || raw.shape.join() !== shape.join()) {
      const got = raw === undefined ? 'none' : `${raw.dtype} [${raw.shape.join(', ')}]`;
      throw new FormatError(file, `${name}: expected F32 [${shape.join(', ')}], got ${got}`, {
        tensor: name,
      });
    }
    if (!areFinite(readBytes(raw), 'F32')) {
      throw new FormatError(file, `${name}: expected finite numbers`, { tensor: name });
    }
  }
}
