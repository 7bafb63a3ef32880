/** Where the concepts of a pipeline act: how much each counts for the context and for every region. */
import { UsageError } from '../errors.ts';
import { masksInput } from '../models/unet/factor-places.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { MAX_STRENGTH, rangeMessage } from './limits.ts';

/** One of a pipeline's concepts, as the context or a region asks for it. */
export interface ConceptUse {
  /** Place among the pipeline's `placedDeltas`, from 0. */
  readonly concept: number;
  /** Multiplies the UNet's deltas; default 1. */
  readonly unetStrength?: number;
  /** Multiplies the text encoder's deltas; default 1. */
  readonly textEncoderStrength?: number;
}

/** A strength per concept and source, [concept][source]; source 0 is the context. */
export type SourceStrengths = readonly (readonly number[])[];

export interface ConceptStrengths {
  readonly unet: SourceStrengths;
  readonly textEncoder: SourceStrengths;
}

/** What says where concepts act. */
export interface ConceptUses {
  /** Of the context. Default: every concept of the pipeline. */
  readonly concepts?: readonly ConceptUse[];
  /** A region without `concepts` has the context's. */
  readonly regions: readonly { readonly concepts?: readonly ConceptUse[] }[];
}

/**
 * @param count concepts of the pipeline
 * @throws {UsageError} for a concept that the pipeline does not have, or a strength out of range
 */
export function conceptStrengths({ concepts, regions }: ConceptUses, count: number): ConceptStrengths {
  const all = Array.from({ length: count }, (_, concept): ConceptUse => ({ concept }));
  const context = concepts ?? all;
  const uses = [context, ...regions.map((region) => region.concepts ?? context)];
  const unet = all.map(() => uses.map(() => 0));
  const textEncoder = all.map(() => uses.map(() => 0));
  uses.forEach((own, source) => {
    for (const { concept, unetStrength = 1, textEncoderStrength = 1 } of own) {
      if (!(Number.isInteger(concept) && concept >= 0 && concept < count)) {
        throw new UsageError(
          `concepts: expected one of the ${count} that the pipeline places, counted from 0, got ${concept}`,
        );
      }
      for (const strength of [unetStrength, textEncoderStrength]) {
        if (Math.abs(strength) <= MAX_STRENGTH) continue;
        throw new UsageError(`strength of a concept: ${rangeMessage(-MAX_STRENGTH, MAX_STRENGTH, strength)}`);
      }
      unet[concept]![source] = unetStrength;
      textEncoder[concept]![source] = textEncoderStrength;
    }
  });
  return { unet, textEncoder };
}

/**
 * Sources in groups, on each of which every concept acts equally strongly.
 * @param kindOf what else the members of a group agree in. Default nothing
 */
export function alikeSources(
  strengths: SourceStrengths,
  count: number,
  kindOf: (source: number) => number = () => 0,
): { readonly sources: readonly number[]; readonly strengths: readonly number[] }[] {
  const groups = new Map<string, { sources: number[]; strengths: number[] }>();
  for (let source = 0; source < count; source++) {
    const own = strengths.map((bySource) => bySource[source]!);
    const key = [kindOf(source), ...own].join();
    const group = groups.get(key) ?? { sources: [], strengths: own };
    group.sources.push(source);
    groups.set(key, group);
  }
  return [...groups.values()];
}

/** How the UNet's graph holds the concepts. */
export interface ConceptPlacement {
  /** By concept: its strength in the whole picture; 0 of those that act in parts of it, or nowhere. */
  readonly everywhere: readonly number[];
  /** Concepts that act in parts of the picture, in the order of their masks. */
  readonly placed: readonly number[];
}

/** @param present whether each source rules anywhere */
export function conceptPlacement(strengths: SourceStrengths, present: readonly boolean[]): ConceptPlacement {
  const own = strengths.map((bySource) => bySource.filter((_, source) => present[source]));
  const even = own.map((bySource) => bySource.every((strength) => strength === bySource[0]));
  return {
    everywhere: own.map((bySource, concept) => (even[concept] ? (bySource[0] ?? 0) : 0)),
    placed: [...own.keys()].filter((concept) => !even[concept]),
  };
}

/**
 * The masks of concepts at every level, [1, N, 1 + P]: 1, then m_c(n) = Σ_s strength_c,s · w_s(n).
 * @param weights   of the sources, by level, [source][N], see region-shares.ts
 * @param strengths of the placed concepts
 */
export function conceptMasks(
  weights: readonly (readonly Float32Array[])[],
  strengths: SourceStrengths,
): Record<string, Tensor<Float32Array>> {
  if (strengths.length === 0) return {};
  const width = 1 + strengths.length;
  const feeds = weights.map((sources, level) => {
    const rows = sources[0]!.length;
    const masks = float32([1, rows, width]);
    for (let n = 0; n < rows; n++) {
      masks.data[n * width] = 1;
      strengths.forEach((bySource, i) => {
        let sum = 0;
        for (const [source, own] of sources.entries()) sum += bySource[source]! * own[n]!;
        masks.data[n * width + 1 + i] = sum;
      });
    }
    return [masksInput(level), masks] as const;
  });
  return Object.fromEntries(feeds);
}
