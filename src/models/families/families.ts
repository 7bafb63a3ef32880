/** The table of families. Signs are looked for from the first to the last: files of one hold names of others' kind too. */
import { UsageError } from '../../errors.ts';
import type { AdapterFamily, AdapterLayout, BaseFamily, Family } from './family.ts';
import { flux, lumina, others, qwenImage, sd3, unlisted, wan } from './foreign.ts';
import { sd1 } from './sd1.ts';
import { sd2 } from './sd2.ts';
import { sdxl, sdxlRefiner } from './sdxl.ts';

/** What a file is taken for where no sign speaks for another family. */
export const DEFAULT_FAMILY: BaseFamily = sd1;

/** What a file is taken for whose layers are of no listed family. */
export const UNLISTED_FAMILY: Family = unlisted;

/** All families that are known. */
export const FAMILIES: readonly Family[] = [
  flux,
  sd3,
  qwenImage,
  lumina,
  wan,
  sdxlRefiner,
  sdxl,
  sd2,
  ...others,
  DEFAULT_FAMILY,
];

export function hasAdapters(family: Family): family is AdapterFamily {
  return family.adapters !== null;
}

export function hasBase(family: Family): family is BaseFamily {
  return family.base !== null && hasAdapters(family);
}

/** Families whose layers are listed here, so that every spelling of them leads to every other; the default first. */
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

/** @throws {UsageError} if no family has this name */
export function familyNamed(name: string): Family {
  const family = [...FAMILIES, UNLISTED_FAMILY].find((family) => family.name === name);
  return family ?? adapterFamily(name);
}

/** What adapters need to know of a family; `null` where its layers are not listed. @throws as `familyNamed` */
export function layoutOf(name: string): AdapterLayout | null {
  return familyNamed(name).adapters;
}

/** What adapters of a base say that they are of: a family that is not in the table has none of its own. */
export function familyOfAdapters(base: Family): Family {
  return FAMILIES.includes(base) ? base : DEFAULT_FAMILY;
}

/** `Stable Diffusion 1.x, Stable Diffusion 2.x or SDXL`, for messages. */
export function titlesOf(families: readonly Family[]): string {
  const titles = families.map(({ title }) => title);
  return [titles.slice(0, -1).join(', '), ...titles.slice(-1)].filter((part) => part !== '').join(' or ');
}
