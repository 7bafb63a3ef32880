/** The table of families. Signs are looked for from the first to the last: files of one hold names of others' kind too. */
import { UsageError } from '../../errors.ts';
import type { AdapterFamily, BaseFamily, Family } from './family.ts';
import { flux, others, sd2, sd3 } from './foreign.ts';
import { sd1 } from './sd1.ts';
import { sdxl } from './sdxl.ts';

/** What a file is taken for where no sign speaks for another family. */
export const DEFAULT_FAMILY: BaseFamily = sd1;

/** All families that are known. */
export const FAMILIES: readonly Family[] = [flux, sd3, sdxl, sd2, ...others, DEFAULT_FAMILY];

export function hasAdapters(family: Family): family is AdapterFamily {
  return family.adapters !== null;
}

export function hasBase(family: Family): family is BaseFamily {
  return family.base !== null && hasAdapters(family);
}

/** Families whose adapters are read and written, the default first. */
export const ADAPTER_FAMILIES: readonly AdapterFamily[] = FAMILIES.filter(hasAdapters).toReversed();

/** Families whose models draw, learn and are fused. */
export const BASE_FAMILIES: readonly BaseFamily[] = FAMILIES.filter(hasBase).toReversed();

/** @throws {UsageError} if no family of this name has adapters */
export function adapterFamily(name: string): AdapterFamily {
  const family = ADAPTER_FAMILIES.find((family) => family.name === name);
  if (family === undefined) {
    const names = ADAPTER_FAMILIES.map((family) => family.name).join(', ');
    throw new UsageError(`family ${name}: expected one of ${names}`);
  }
  return family;
}

/** `Stable Diffusion 1.x or SDXL`, for messages. */
export function titlesOf(families: readonly Family[]): string {
  return families.map(({ title }) => title).join(' or ');
}
