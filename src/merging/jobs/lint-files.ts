/** Lint from files: what other tools would have made of a merge. */

import type { SubjectProgress } from '../../progress.ts';
import type { ForeignMergeName } from '../foreign-merges.ts';
import { foreignMergeNames } from '../foreign-merges.ts';
import { type LintReport, lintMerge } from '../lint.ts';
import { baseWeightsOf, openModelFiles } from '../model-files.ts';
import { loadMergeInputs, type StrengthOptions } from './inputs.ts';

export interface LintFilesOptions {
  readonly inputs: readonly StrengthOptions[];
  /** Tools to ask. Default: all. */
  readonly tools?: readonly ForeignMergeName[];
  /** What truncating tools are asked for; `null`: the largest of the inputs. Default `null`. */
  readonly rank?: number | null;
  /** Model that the adapters were trained on, for kinds that need it. */
  readonly base?: string;
  /** Its reason is thrown once it is aborted. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: SubjectProgress) => void;
}

/** How far each tool's merge is from the true sum. @throws as `lintMerge`, and for inputs that cannot be read */
export async function lintFiles(options: LintFilesOptions): Promise<LintReport[]> {
  const { tools = foreignMergeNames, rank, base, signal, onProgress } = options;
  const inputs = await loadMergeInputs(options.inputs);
  const weights = base === undefined ? undefined : baseWeightsOf(await openModelFiles(base));
  const reports: LintReport[] = [];
  for (const [done, tool] of tools.entries()) {
    reports.push(await lintMerge(inputs, tool, { rank, signal, base: weights }));
    onProgress?.({ done: done + 1, total: tools.length, subject: tool });
  }
  return reports;
}
