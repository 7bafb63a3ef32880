/**
 * Strengths per block, in the notation of the community (sd-webui-lora-block-weight): 17 numbers for SD 1.x, BASE (text
 * encoder), IN01 02 04 05 07 08, MID, OUT03–OUT11; 26 with every IN and OUT; 12 for SDXL, BASE, IN04 05 07 08, MID,
 * OUT00–OUT05, or 20 with every IN and OUT up to 08.
 * Blocks without a number of their own keep 1, as sd-scripts does (networks/svd_merge_lora.py): the 17 name those
 * that hold attention, and convolutions of LoCon files lie elsewhere too.
 */

import { UsageError } from '../errors.ts';
import { type AdapterModule, type Architecture, ldmKohyaName } from '../models/families/adapter-layers.ts';
import { familyNamed, hasAdapters } from '../models/families/families.ts';
import { nearestName } from '../nearest-name.ts';

/** Factor per block name; blocks not named count 1. */
export type BlockWeights = ReadonlyMap<string, number>;

const zeros = (count: number): number[] => new Array<number>(count).fill(0);
const ones = (count: number): number[] => new Array<number>(count).fill(1);

/** The presets that come with sd-webui-lora-block-weight, for 17 blocks. */
export const blockPresets: Readonly<Record<string, readonly number[]>> = {
  NONE: zeros(17),
  ALL: ones(17),
  INS: [...ones(4), ...zeros(13)],
  IND: [1, ...zeros(3), ...ones(3), ...zeros(10)],
  INALL: [...ones(7), ...zeros(10)],
  MIDD: [1, ...zeros(3), ...ones(8), ...zeros(5)],
  OUTD: [1, ...zeros(7), ...ones(4), ...zeros(5)],
  OUTS: [1, ...zeros(11), ...ones(5)],
  OUTALL: [1, ...zeros(7), ...ones(9)],
  'ALL0.5': new Array<number>(17).fill(0.5),
};

/**
 * Read block weights: a preset's name, or numbers separated by commas.
 * @throws {UsageError} on another count, something that is no number, or an unknown preset
 */
export function parseBlockWeights(text: string, architecture: Architecture): BlockWeights {
  const { blockNames: counts, title } = familyNamed(architecture);
  if (counts.size === 0) {
    throw new UsageError(
      `block weights: expected an adapter whose blocks have names, got one for ${title}; a strength for all of it works`,
    );
  }
  const parts = text.split(',').map((part) => part.trim());
  if (parts.length === 1 && !/^[-+.\d]/.test(parts[0]!)) {
    const name = parts[0]!.toUpperCase();
    const preset = Object.hasOwn(blockPresets, name) ? blockPresets[name] : undefined;
    if (preset === undefined) {
      const nearest = nearestName(name, Object.keys(blockPresets));
      throw new UsageError(
        `block weights "${text}": no such preset; ${nearest === null ? `there are ${Object.keys(blockPresets).join(', ')}` : `did you mean ${nearest}?`}`,
      );
    }
    const blocks = counts.get(preset.length);
    if (blocks === undefined) {
      throw new UsageError(
        `block weights ${name}: presets are for the ${preset.length} blocks of SD 1.x; give ${[...counts.keys()].join(' or ')} numbers`,
      );
    }
    return named(blocks, preset);
  }
  const values = parts.map(Number);
  const bad = parts.findIndex((part, i) => part === '' || !Number.isFinite(values[i]));
  if (bad >= 0)
    throw new UsageError(`block weights: expected a number at place ${bad + 1}, got "${parts[bad]}"`);
  const blocks = counts.get(values.length);
  if (blocks === undefined) {
    throw new UsageError(
      `block weights: expected ${[...counts.keys()].join(' or ')} numbers, got ${values.length}`,
    );
  }
  return named(blocks, values);
}

function named(blocks: readonly string[], values: readonly number[]): BlockWeights {
  return new Map(blocks.map((block, i) => [block, values[i]!]));
}

/**
 * Block of a layer: BASE for text encoders, `IN01`, `MID`, `OUT11`, as the family has them; `null` for layers outside
 * (conv_in, time embedding) and where nobody named the blocks.
 */
export function blockOf(architecture: Architecture, module: AdapterModule): string | null {
  const family = familyNamed(architecture);
  if (!hasAdapters(family)) return family.blockOf?.(module) ?? null;
  if (module.component !== 'unet') return 'BASE';
  const name = ldmKohyaName(architecture, module);
  const match = name === null ? null : /^lora_unet_(input|middle|output)_blocks?_(\d+)_/.exec(name);
  if (match === null) return null;
  if (match[1] === 'middle') return 'MID';
  return `${match[1] === 'input' ? 'IN' : 'OUT'}${match[2]!.padStart(2, '0')}`;
}

/** What multiplies a layer's strength. */
export function blockFactor(
  weights: BlockWeights,
  architecture: Architecture,
  module: AdapterModule,
): number {
  return weights.get(blockOf(architecture, module) ?? '') ?? 1;
}
