/** How far another tool's merge of the same files is from the true sum. */

import { type BaseWeights, layerDeltaSteps, needsBase } from '../adapters/delta.ts';
import type { UnsupportedEntry } from '../adapters/write.ts';
import { UsageError } from '../errors.ts';
import { frobeniusNormSteps, innerProductSteps, subtract } from '../linalg/low-rank.ts';
import { Pace } from '../pace.ts';
import { commonArchitecture } from './common-family.ts';
import { weightedSum } from './factors.ts';
import { foreignMerge, type StoredTerm } from './foreign-merges.ts';
import { layerStrength, layersByModule, type MergeInput, refuseUnequalShapes, unusableOf } from './merge.ts';

export interface LintedLayer {
  readonly id: string;
  /** ‖theirs − true‖ / ‖true‖; infinite where the true sum is zero and theirs is not. */
  readonly relativeError: number;
  /** ⟨theirs, true⟩ / ‖true‖²: 1 is right, 0.25 a quarter of the strength. */
  readonly gain: number;
  /** Cosine of the angle between theirs and the true sum. */
  readonly cosine: number;
}

export interface LintReport {
  readonly tool: string;
  readonly title: string;
  readonly defect: string;
  readonly source: string;
  readonly layers: readonly LintedLayer[];
  /** √(Σ‖theirs − true‖² / Σ‖true‖²) over all layers. */
  readonly relativeError: number;
  readonly gain: number;
  /** Why the tool refuses these inputs; `null` if it takes them. */
  readonly refusal: string | null;
  /** Entries of the inputs that no LoRA can hold: they are in neither sum. */
  readonly unsupported: readonly UnsupportedEntry[];
}

export interface LintOptions {
  /** What truncating tools are asked for; `null`: the largest of the inputs. */
  readonly rank?: number | null;
  readonly base?: BaseWeights;
  /** Its reason is thrown once it is aborted. */
  readonly signal?: AbortSignal;
}

/**
 * Compare.
 * @throws {UsageError} if there is no such tool; {MismatchError} on mixed architectures
 */
export async function lintMerge(
  inputs: readonly MergeInput[],
  tool: string,
  { rank = null, base, signal }: LintOptions = {},
): Promise<LintReport> {
  const foreign = foreignMerge(tool);
  commonArchitecture(inputs.map(({ adapter }) => adapter));
  const pace = new Pace(signal);
  const layers: LintedLayer[] = [];
  const { title, defect, source } = foreign;
  const unsupported = unusableOf(inputs.map(({ adapter }) => adapter));
  const about = { tool, title, defect, source, unsupported };
  let [errors, norms, products] = [0, 0, 0];
  for (const [id, parts] of layersByModule(inputs)) {
    await pace.turn();
    const terms: StoredTerm[] = [];
    for (const { layer, input } of parts) {
      terms.push({
        ...(await pace.run(layerDeltaSteps(layer, needsBase(layer) ? base?.(layer) : undefined))),
        strength: layerStrength(input, layer),
        loraAlpha: layer.scale * (layer.rank ?? 1),
      });
    }
    refuseUnequalShapes(id, terms);
    const truth = await pace.run(weightedSum(terms));
    let theirs: typeof truth;
    try {
      theirs = await pace.run(foreign.merge(terms, rank));
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      return {
        ...about,
        layers: [],
        relativeError: Number.NaN,
        gain: Number.NaN,
        refusal: `${id}: ${error.message}`,
      };
    }
    const error = await pace.run(frobeniusNormSteps(subtract(theirs, truth)));
    const norm = await pace.run(frobeniusNormSteps(truth));
    const product = await pace.run(innerProductSteps(theirs, truth));
    const own = await pace.run(frobeniusNormSteps(theirs));
    layers.push({
      id,
      relativeError: norm > 0 ? error / norm : error > 0 ? Number.POSITIVE_INFINITY : 0,
      gain: norm > 0 ? product / norm ** 2 : 1,
      cosine: norm > 0 && own > 0 ? product / (norm * own) : 1,
    });
    errors += error ** 2;
    norms += norm ** 2;
    products += product;
  }
  return {
    ...about,
    layers,
    relativeError: norms > 0 ? Math.sqrt(errors / norms) : 0,
    gain: norms > 0 ? products / norms : 1,
    refusal: null,
  };
}
