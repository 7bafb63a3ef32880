/** The input of an index: which seed, which of its files, and what becomes of them. The same index, the same bytes. */
import { mutate } from './mutate/mutate.ts';
import { Random } from './random.ts';
import type { Seed, SeedFile, Target } from './target.ts';

export interface MadeInput {
  readonly seed: Seed;
  /** Of the seed's files, in its order; those that were left alone are the same objects. */
  readonly files: readonly SeedFile[];
  /** Further choices. */
  readonly random: Random;
}

/** @param seeds as `target.seeds()` gave them */
export function makeInput(target: Target, seeds: readonly Seed[], seed: number, index: number): MadeInput {
  const random = new Random(target.name, seed, index);
  const chosen = random.pick(seeds);
  const open = chosen.filter(({ form }) => form !== 'fixed');
  const damaged = new Set([random.pick(open)]);
  if (open.length > 1 && random.chance(0.15)) damaged.add(random.pick(open));
  const others = random.pick(seeds);
  const files = chosen.map((file) => {
    if (!damaged.has(file)) return file;
    const partner = others.find(({ form, name }) => form === file.form && name !== '') ?? null;
    const bytes = mutate(random, file.form, file.bytes, partner?.bytes ?? null, target.words ?? []);
    const changed = { ...file, bytes };
    return target.repair?.(changed, random) ?? changed;
  });
  return { seed: chosen, files, random };
}
