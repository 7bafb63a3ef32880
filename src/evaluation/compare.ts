/** Evaluations side by side, from their reports' files to a page. */
import path from 'node:path';
import type { ComparedVariant } from './compare-page.ts';
import { readEvaluationReport } from './evaluation-report.ts';
import type { ReportFolder } from './report-folder.ts';

export interface Comparison {
  /** The page, absolute. */
  readonly page: string;
  /** All models of all runs, run by run. */
  readonly models: readonly ComparedVariant[];
}

/**
 * Compare.
 * @param files  `report.json` of each run
 * @param labelOf what a run is called in tables. Default: its file
 * @throws {UsageError} for fewer than two; {FormatError} for a report or a picture that cannot be read
 */
export async function compareEvaluations(
  files: readonly string[],
  folder: ReportFolder,
  labelOf: (file: string) => string = (file) => file,
): Promise<Comparison> {
  const runs = [];
  for (const file of files) {
    const report = await readEvaluationReport(file);
    runs.push({ label: labelOf(file), report, folder: path.dirname(path.resolve(file)) });
  }
  // The charting library costs half a second: not at the start of every command.
  const { comparedVariants, comparePage } = await import('./compare-page.ts');
  return {
    page: await folder.write('compare.html', await comparePage(runs)),
    models: comparedVariants(runs),
  };
}
