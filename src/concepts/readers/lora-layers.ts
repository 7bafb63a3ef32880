/**
 * What all LoRA layouts share: pairs of factors gathered from a file's tensors and checked. A layout brings its names
 * and says how alpha scales; here nothing may be left over, missing, doubled or of the wrong shape.
 */
import path from 'node:path';
import { excessOf, MAX_LAYERS } from '../../adapters/layer-limits.ts';
import { FormatError } from '../../errors.ts';
import { isFloatDType } from '../../formats/dtype.ts';
import { excerpt } from '../../formats/excerpt.ts';
import { elementCount, type RawTensor, readFloat64 } from '../../formats/raw-tensor.ts';
import { isKnownLayer, type LoraKey, type ModulePath, moduleId } from '../../models/keys/module-path.ts';
import type { LoraLayer } from '../concept.ts';

/** How a layout reads one name, and what multiplies up · down. */
export interface LoraLayout {
  /** `null` for a name that is not of this layout. */
  readonly parse: (name: string) => LoraKey | null;
  /** @param loraAlpha the number stored for this layer, `null` if none is */
  readonly scale: (module: ModulePath, rank: number, loraAlpha: number | null) => number;
  /** Layers that may occur; by default those of SD 1.x. */
  readonly isLayer?: (module: ModulePath) => boolean;
}

/** kohya's rule, which is also that of files whose tool has none: alpha / rank, alpha being the rank where absent. */
export function alphaOverRank(_: ModulePath, rank: number, loraAlpha: number | null): number {
  return (loraAlpha ?? rank) / rank;
}

interface Parts {
  readonly module: ModulePath;
  readonly tensors: Partial<Record<'up' | 'down' | 'alpha', RawTensor>>;
}

/**
 * Gather layers, keyed `component:layerName`, in file order.
 * @param file for messages
 * @throws {FormatError} on names that match nothing (all are listed), half pairs, doubled layers, impossible shapes,
 *   rank 0, an alpha that is 0 or not finite, and on more layers, or larger ones, than a model has
 */
export function collectLayers(
  file: string,
  tensors: Iterable<RawTensor>,
  { parse, scale, isLayer = isKnownLayer }: LoraLayout,
): Map<string, LoraLayer> {
  const byLayer = new Map<string, Parts>();
  const unmatched: string[] = [];
  for (const tensor of tensors) {
    const key = parse(tensor.name);
    if (key === null || !isLayer(key)) {
      unmatched.push(tensor.name);
      continue;
    }
    const { component, layerName, part } = key;
    const id = moduleId(key);
    const parts: Parts = byLayer.get(id) ?? { module: { component, layerName }, tensors: {} };
    byLayer.set(id, parts);
    if (byLayer.size > MAX_LAYERS) {
      throw new FormatError(file, `expected at most ${MAX_LAYERS} layers, got more`, { tensor: tensor.name });
    }
    const other = parts.tensors[part];
    if (other !== undefined) {
      throw new FormatError(file, `"${other.name}" and "${tensor.name}" are both the ${part} of ${id}`, {
        tensor: tensor.name,
      });
    }
    parts.tensors[part] = tensor;
  }
  refuseUnmatched(file, unmatched);

  const layers = new Map<string, LoraLayer>();
  for (const [id, { module, tensors }] of byLayer) {
    const { up, down, alpha } = tensors;
    if (up === undefined || down === undefined) {
      const [have, missing] = up === undefined ? ['down', 'up'] : ['up', 'down'];
      const what =
        up === undefined && down === undefined ? 'alpha without factors' : `${have} without ${missing}`;
      throw new FormatError(file, `${id}: ${what}; truncated or hand-made file?`, { tensor: id });
    }
    const rank = checkShapes(file, up, down);
    const excess = excessOf(module, { kind: 'lora', up, down, mid: null });
    if (excess !== null) throw new FormatError(file, `${id}: ${excess}`, { tensor: id });
    const loraAlpha = alpha === undefined ? null : readAlpha(file, alpha);
    layers.set(id, { ...module, up, down, rank, scale: scale(module, rank, loraAlpha) });
  }
  return layers;
}

/** What `convertFile` is told to make a LoRA of a file. */
const plain = '`format: kohya`';
const withWords = '`format: ed-lora`';
const onBase = '`format: kohya` `base: <model>`';

/** What unmatched names betray, so that the message says more than "unknown"; and how to convert such files, if at all. */
const betrayals: readonly (readonly [sign: RegExp, kind: string, convert?: string])[] = [
  [/^(model\.diffusion_model|first_stage_model|cond_stage_model)\./, 'a whole checkpoint, not a concept'],
  [/\.hada_/, 'LyCORIS LoHa', plain],
  [/\.lokr_/, 'LyCORIS LoKr', plain],
  [/\.lora_mid\./, 'LyCORIS LoCon with a Tucker core', plain],
  [/\.(dora_scale|lora_magnitude_vector)/, 'DoRA', onBase],
  [/\.oft_/, 'OFT'],
  [/\.(diff|diff_b)$/, 'full differences', plain],
  [/^(unet|text_encoder):\d+:/, "cloneofsimo's positional names", plain],
  [/^bundle_emb\./, 'embeddings bundled into a LoRA', withWords],
  [/^(string_to_param|emb_params|clip_[lg]$)/, 'a textual inversion embedding'],
  [/^text_model\.embeddings\.|\.(norm\d?|weight|bias)$/, 'full weights'],
];

/** @throws {FormatError} listing the names, if there are any */
export function refuseUnmatched(file: string, names: readonly string[]): void {
  if (names.length === 0) return;
  const found = betrayals.filter(([sign]) => names.some((name) => sign.test(name)));
  const listed = names.slice(0, 40).map((name) => `\n  ${excerpt(name)}`);
  if (names.length > listed.length) listed.push(`\n  … and ${names.length - listed.length} more`);
  throw new FormatError(
    file,
    `${names.length} ${names.length === 1 ? 'entry matches' : 'entries match'} no LoRA pair of a Stable Diffusion 1.x layer${found.length > 0 ? ` (looks like ${found.map(([, kind]) => kind).join(', ')}${convertHint(file, found)})` : ''}:${listed.join('')}`,
    { tensor: names[0]! },
  );
}

/** The call that makes a LoRA of a file, if every kind in it has one. */
function convertHint(file: string, found: typeof betrayals): string {
  const lines = found.map(([, , convert]) => convert);
  if (lines.includes(undefined)) return '';
  const options = lines.includes(onBase) ? onBase : lines.includes(withWords) ? withWords : plain;
  const { dir, name } = path.parse(file);
  const target = path.join(dir, `${name}-lora.safetensors`);
  return `; concepts are plain LoRA: \`convertFile\` ${file} ${target} ${options}`;
}

/** down [r, n] or [r, n, kh, kw], up [m, r] or [m, r, 1, 1], both of real numbers. @returns r */
function checkShapes(file: string, up: RawTensor, down: RawTensor): number {
  const fail = ({ name, shape }: RawTensor, expected: string): FormatError =>
    new FormatError(file, `${name}: expected ${expected}, got [${shape.join(', ')}]`, { tensor: name });
  for (const tensor of [up, down]) {
    if (!isFloatDType(tensor.dtype)) {
      throw new FormatError(file, `${tensor.name}: expected floating point numbers, got ${tensor.dtype}`, {
        tensor: tensor.name,
      });
    }
  }
  const rank = down.shape[0];
  if ((down.shape.length !== 2 && down.shape.length !== 4) || rank === undefined) {
    throw fail(down, 'a down factor [rank, inputs] or [rank, inputs, height, width]');
  }
  if (rank === 0) throw fail(down, 'a rank of at least 1');
  if (elementCount(down.shape) === 0) throw fail(down, 'no axis of size 0');
  const flat = up.shape.length === 2 || (up.shape.length === 4 && up.shape[2] === 1 && up.shape[3] === 1);
  if (!flat) throw fail(up, 'an up factor [outputs, rank] or [outputs, rank, 1, 1]');
  if (up.shape[1] !== rank) throw fail(up, `[outputs, ${rank}], the rank of its down factor,`);
  if (elementCount(up.shape) === 0) throw fail(up, 'no axis of size 0');
  return rank;
}

function readAlpha(file: string, tensor: RawTensor): number {
  const fail = (got: string): FormatError =>
    new FormatError(file, `${tensor.name}: expected one number, not 0, got ${got}`, { tensor: tensor.name });
  if (elementCount(tensor.shape) !== 1) throw fail(`shape [${tensor.shape.join(', ')}]`);
  const value = readFloat64(tensor)[0]!;
  if (!Number.isFinite(value) || value === 0) throw fail(String(value));
  return value;
}
