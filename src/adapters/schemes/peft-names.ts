/**
 * PEFT's tensor names, `base_model.model.<path>.lora_A.weight`, and how its `adapter_config.json` scales a layer.
 * An adapter belongs to one network, so names do not say which: the path's first part does.
 */
import { FormatError } from '../../errors.ts';
import type { ModulePath } from '../../models/keys/module-path.ts';
import { peftPrefix } from './layer-names.ts';

/** Layers with a rank or alpha of their own at most: every layer is compared with every one of them. */
const MAX_PATTERNS = 4000;

/** A value of a configuration in a message: nested ones, which may be of any depth, by their kind alone. */
function valueText(value: unknown): string {
  return typeof value === 'object' && value !== null
    ? 'an object'
    : String(JSON.stringify(value)).slice(0, 120);
}

/** Tensor name as `save_pretrained` writes it. */
export function peftKey({ layerName }: ModulePath, part: 'up' | 'down'): string {
  return `${peftPrefix}${layerName}.lora_${part === 'down' ? 'A' : 'B'}.weight`;
}

type Patterns = readonly (readonly [pattern: RegExp, value: number])[];

/**
 * A key of `rank_pattern` or `alpha_pattern` as PEFT matches it, over the whole of a layer's name or over its end behind a
 * dot: `re.match(rf"(.*\.)?({key})$", name)`. `null` for what this engine might match differently, or take for ever over:
 * only literals, dots, classes, alternatives, anchors and two repetitions of single characters pass.
 * Source: huggingface/peft@v0.17, utils/other.py, get_pattern_key.
 */
function peftPattern(key: string): RegExp | null {
  const repetitions = key.match(/[*+?]/g)?.length ?? 0;
  const known = /^(?:\w|[.^$|()-]|\\[.dw]|\[\^?[\w.-]+\]|(?:\.|\\[dw]|\w|\])[*+?](?![*+?]))+$/.test(key);
  if (!known || repetitions > 2 || /\)[*+?]|\(\?/.test(key)) return null;
  try {
    return new RegExp(`^(?:.*\\.)?(?:${key})$`);
  } catch {
    return null;
  }
}

/**
 * Starts that are taken out of the base's own weights, which then are others than the published ones: up · down holds that
 * start too. Everything else that PEFT knows leaves the base as it is.
 */
const HARMLESS_STARTS: readonly unknown[] = [undefined, null, true, false, 'gaussian', 'eva', 'orthogonal'];

/** Kinds of adapters that are read, by what their configurations call them: LoRA, and LyCORIS' two products. */
const ADAPTER_TYPES: readonly unknown[] = ['LORA', 'LOHA', 'LOKR'];

/** `alpha` of LoHa's and LoKr's configurations where none is stored. Source: huggingface/peft@v0.17, tuners/loha/config.py. */
const DEFAULT_PRODUCT_ALPHA = 8;

/** The part of a configuration that decides scales. */
export interface PeftScaling {
  readonly r: number;
  readonly loraAlpha: number;
  /** Divide by √r instead of r. */
  readonly useRslora: boolean;
  /** Layers of another rank, or alpha; the first pattern that matches counts. */
  readonly rankPattern: Patterns;
  readonly alphaPattern: Patterns;
}

/**
 * Read the scaling of a LoraConfig and refuse what is not plain LoRA.
 * @param config the parsed JSON, keys as in `adapter_config.json`
 * @param options.dora accept DoRA, whose magnitudes the caller then applies
 * @throws {FormatError} on a missing or senseless number, another adapter type, DoRA
 */
export function peftScaling(
  file: string,
  config: Readonly<Record<string, unknown>>,
  { dora = false }: { readonly dora?: boolean } = {},
): PeftScaling {
  const { peft_type: type = 'LORA' } = config;
  if (!ADAPTER_TYPES.includes(type)) {
    throw new FormatError(
      file,
      `peft_type: expected ${ADAPTER_TYPES.map((known) => `"${known}"`).join(' or ')}, got ${valueText(type)}`,
    );
  }
  for (const option of [...(dora ? [] : ['use_dora']), 'fan_in_fan_out', 'use_qalora']) {
    if (config[option] === true) throw new FormatError(file, `${option}: not supported; only plain LoRA is`);
  }
  // LoHa and LoKr have a field of another name, and no start but their own.
  const { init_lora_weights: start } = config;
  if (!HARMLESS_STARTS.includes(start)) {
    throw new FormatError(
      file,
      `init_lora_weights: ${valueText(start)} takes the adapter's start out of the base's weights, so its factors alone are not the change; save it again by PEFT with path_initial_model_for_weight_conversion, which makes a plain LoRA of it`,
    );
  }
  const positive = (name: string, value: unknown): number => {
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw new FormatError(file, `${name}: expected a number above 0, got ${valueText(value)}`);
    }
    return value;
  };
  const patterns = (name: string): Patterns => {
    const value = config[name] ?? {};
    if (typeof value !== 'object' || Array.isArray(value))
      throw new FormatError(file, `${name}: expected an object`);
    const entries = Object.entries(value);
    if (entries.length > MAX_PATTERNS) {
      throw new FormatError(file, `${name}: expected at most ${MAX_PATTERNS} layers, got ${entries.length}`);
    }
    return entries.map(([key, number]) => {
      const pattern = peftPattern(key);
      if (pattern === null) {
        throw new FormatError(
          file,
          `${name}: expected layer names, or simple patterns of them, got ${valueText(key)}`,
        );
      }
      return [pattern, positive(`${name}.${key}`, number)] as const;
    });
  };
  return {
    r: positive('r', config.r),
    loraAlpha:
      type === 'LORA'
        ? positive('lora_alpha', config.lora_alpha ?? config.r)
        : positive('alpha', config.alpha ?? DEFAULT_PRODUCT_ALPHA),
    useRslora: config.use_rslora === true,
    rankPattern: patterns('rank_pattern'),
    alphaPattern: patterns('alpha_pattern'),
  };
}

/**
 * What multiplies up · down for one layer.
 * @param rank the factors' own rank, which must be the configured one; `null` for a LoKr whose factors are whole
 * @throws {FormatError} if it is not
 */
export function peftScale(
  file: string,
  scaling: PeftScaling,
  layerName: string,
  rank: number | null,
): number {
  const of = (patterns: Patterns, otherwise: number): number =>
    patterns.find(([pattern]) => pattern.test(layerName))?.[1] ?? otherwise;
  const r = of(scaling.rankPattern, scaling.r);
  if (rank !== null && r !== rank) {
    throw new FormatError(
      file,
      `${layerName}: expected rank ${r} by the adapter's configuration, got ${rank}`,
    );
  }
  return of(scaling.alphaPattern, scaling.loraAlpha) / (scaling.useRslora ? Math.sqrt(r) : r);
}
