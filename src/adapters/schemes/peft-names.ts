/**
 * PEFT's tensor names, `base_model.model.<path>.lora_A.weight`, and how its `adapter_config.json` scales a layer.
 * An adapter belongs to one network, so names do not say which: the path's first part does.
 */
import { FormatError } from '../../errors.ts';
import { type LoraKey, type ModulePath, modulePath } from '../../models/keys/module-path.ts';

const prefix = 'base_model.model.';

/** Layers with a rank or alpha of their own at most: every layer is compared with every one of them. */
const MAX_PATTERNS = 4000;

/** A value of a configuration in a message: nested ones, which may be of any depth, by their kind alone. */
function valueText(value: unknown): string {
  return typeof value === 'object' && value !== null
    ? 'an object'
    : String(JSON.stringify(value)).slice(0, 120);
}

/** Understand one tensor name (in files, or with the adapter's name as in memory); `null` if it is none. */
export function parsePeftKey(key: string): LoraKey | null {
  const match = /^base_model\.model\.(.+)\.lora_([AB])(?:\.[^.]+)?\.weight$/.exec(key);
  if (match === null) return null;
  const module = modulePath(match[1]!);
  return module === null ? null : { ...module, part: match[2] === 'A' ? 'down' : 'up' };
}

/** Tensor name as `save_pretrained` writes it. */
export function peftKey({ layerName }: ModulePath, part: 'up' | 'down'): string {
  return `${prefix}${layerName}.lora_${part === 'down' ? 'A' : 'B'}.weight`;
}

/** The part of a LoraConfig that decides scales. */
export interface PeftScaling {
  readonly r: number;
  readonly loraAlpha: number;
  /** Divide by √r instead of r. */
  readonly useRslora: boolean;
  /** Layer name (or its end, after a dot) to rank, where it differs. */
  readonly rankPattern: ReadonlyMap<string, number>;
  readonly alphaPattern: ReadonlyMap<string, number>;
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
  if (config.peft_type !== undefined && config.peft_type !== 'LORA') {
    throw new FormatError(file, `peft_type: expected "LORA", got ${valueText(config.peft_type)}`);
  }
  for (const option of [...(dora ? [] : ['use_dora']), 'fan_in_fan_out', 'use_qalora', 'lora_bias']) {
    if (config[option] === true) throw new FormatError(file, `${option}: not supported; only plain LoRA is`);
  }
  const positive = (name: string, value: unknown): number => {
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw new FormatError(file, `${name}: expected a number above 0, got ${valueText(value)}`);
    }
    return value;
  };
  const patterns = (name: string): Map<string, number> => {
    const value = config[name] ?? {};
    if (typeof value !== 'object' || Array.isArray(value))
      throw new FormatError(file, `${name}: expected an object`);
    const entries = Object.entries(value);
    if (entries.length > MAX_PATTERNS) {
      throw new FormatError(file, `${name}: expected at most ${MAX_PATTERNS} layers, got ${entries.length}`);
    }
    return new Map(
      entries.map(([pattern, number]) => {
        // Written as regular expressions; files hold plain names, with the dots escaped or not.
        const plain = pattern.replace(/^\^/, '').replace(/\$$/, '').replaceAll('\\.', '.');
        if (!/^[\w.]+$/.test(plain)) {
          throw new FormatError(file, `${name}: expected layer names, got the pattern ${valueText(pattern)}`);
        }
        return [plain, positive(`${name}.${pattern}`, number)];
      }),
    );
  };
  return {
    r: positive('r', config.r),
    loraAlpha: positive('lora_alpha', config.lora_alpha ?? config.r),
    useRslora: config.use_rslora === true,
    rankPattern: patterns('rank_pattern'),
    alphaPattern: patterns('alpha_pattern'),
  };
}

/**
 * What multiplies up · down for one layer.
 * @param rank the factors' own rank, which must be the configured one
 * @throws {FormatError} if it is not
 */
export function peftScale(file: string, scaling: PeftScaling, layerName: string, rank: number): number {
  const of = (patterns: ReadonlyMap<string, number>, otherwise: number): number => {
    for (const [name, value] of patterns) {
      if (layerName === name || layerName.endsWith(`.${name}`)) return value;
    }
    return otherwise;
  };
  const r = of(scaling.rankPattern, scaling.r);
  if (r !== rank) {
    throw new FormatError(
      file,
      `${layerName}: expected rank ${r} by the adapter's configuration, got ${rank}`,
    );
  }
  return of(scaling.alphaPattern, scaling.loraAlpha) / (scaling.useRslora ? Math.sqrt(r) : r);
}
