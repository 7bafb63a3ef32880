/**
 * Which items form the k-th batch: every item once an epoch, in random order, batches of one size only. A pure function
 * of seed and k, so that a resumed run goes on with the same batches.
 */
import { numberedGenerator } from '../../tensor/numbered-generator.ts';
import type { TorchGenerator } from '../../tensor/random.ts';
import type { TrainingItem } from './latent-cache.ts';

export class BatchOrder<T extends Pick<TrainingItem, 'latentHeight' | 'latentWidth'>> {
  readonly #groups: readonly (readonly T[])[];
  readonly #batch: number;
  readonly #seed: number;
  readonly #purpose: number;
  /** Batches of an epoch. */
  readonly batches: number;
  #epoch: { readonly index: number; readonly batches: readonly (readonly T[])[] } | null = null;

  /** @param purpose keeps the orders of several lists apart */
  constructor(items: readonly T[], batch: number, seed: number, purpose: number) {
    const groups = new Map<string, T[]>();
    for (const item of items) {
      const key = `${item.latentHeight} ${item.latentWidth}`;
      const group = groups.get(key);
      if (group === undefined) groups.set(key, [item]);
      else group.push(item);
    }
    this.#groups = [...groups.values()];
    this.#batch = batch;
    this.#seed = seed;
    this.#purpose = purpose;
    this.batches = this.#groups.reduce((sum, group) => sum + Math.ceil(group.length / batch), 0);
  }

  /** The k-th batch of the run, from 0. The last one of a group is filled up from its beginning. */
  at(k: number): readonly T[] {
    const index = Math.floor(k / this.batches);
    if (this.#epoch?.index !== index) this.#epoch = { index, batches: this.#shuffled(index) };
    return this.#epoch.batches[k % this.batches]!;
  }

  #shuffled(epoch: number): (readonly T[])[] {
    const random = numberedGenerator(this.#seed, this.#purpose, epoch);
    const batches = this.#groups.flatMap((group) => {
      const order = random.randperm(group.length);
      return Array.from({ length: Math.ceil(group.length / this.#batch) }, (_, b) =>
        Array.from({ length: this.#batch }, (_, i) => group[order[(b * this.#batch + i) % group.length]!]!),
      );
    });
    return random.randperm(batches.length).map((i) => batches[i]!);
  }
}

/**
 * A batch whose items share few captions, so that few prompts have to be encoded: that many are drawn, each as likely as it
 * is frequent, and items take turns among them, drawn from those that have it. All of one size.
 * @param items not empty
 */
export function batchSharingCaptions<
  T extends Pick<TrainingItem, 'latentHeight' | 'latentWidth' | 'caption'>,
>(items: readonly T[], batch: number, captions: number, random: TorchGenerator): T[] {
  const drawn = (from: readonly T[]): T => from[random.randint(0, from.length, 1)[0]!]!;
  const first = drawn(items);
  const sized = items.filter(
    ({ latentHeight, latentWidth }) =>
      latentHeight === first.latentHeight && latentWidth === first.latentWidth,
  );
  const chosen = [first, ...Array.from({ length: captions - 1 }, () => drawn(sized))];
  const groups = chosen.map(({ caption }) => sized.filter((item) => item.caption === caption));
  return Array.from({ length: batch }, (_, i) => drawn(groups[i % captions]!));
}
