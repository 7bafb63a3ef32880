/** Several evaluations side by side. */
import { barChart } from '../charts/bar-chart.ts';
import { type Html, html } from '../charts/html.ts';
import { chartFigure, page, table } from '../charts/page.ts';
import { UsageError } from '../errors.ts';
import type { EvaluationReport } from './evaluation-report.ts';
import { intervalText } from './report-page.ts';
import { thumbnail } from './thumbnail.ts';

export interface ComparedReport {
  /** Names the run in tables, e.g. its file. */
  readonly label: string;
  readonly report: EvaluationReport;
  /** Where its pictures lie. */
  readonly folder: string;
}

/** One model of one run, with its row in the tables. */
export interface ComparedVariant {
  readonly run: string;
  readonly variant: EvaluationReport['variants'][number];
  readonly folder: string;
}

/** All models of all runs, run by run. */
export function comparedVariants(runs: readonly ComparedReport[]): ComparedVariant[] {
  return runs.flatMap(({ label, report, folder }) =>
    report.variants.map((variant) => ({ run: label, variant, folder })),
  );
}

/** Settings in which runs differ: their scores mean different things then. */
export function settingDifferences(runs: readonly ComparedReport[]): string[] {
  const facts = ({ report: { settings, clip, base, prompts, references } }: ComparedReport) => ({
    base,
    clip,
    ...settings,
    prompts: prompts.join('\n'),
    'number of reference pictures': references.length,
  });
  const first = runs[0] === undefined ? {} : facts(runs[0]);
  return Object.keys(first).filter(
    (name) => new Set(runs.map((run) => facts(run)[name as keyof ReturnType<typeof facts>])).size > 1,
  );
}

/**
 * Tables and charts of all runs, and pictures of the prompts and seeds that all have.
 * @throws {UsageError} for fewer than two runs; {FormatError} if a picture is missing
 */
export async function comparePage(runs: readonly ComparedReport[]): Promise<string> {
  if (runs.length < 2) throw new UsageError(`compare: expected at least two reports, got ${runs.length}`);
  const rows = comparedVariants(runs);
  const differences = settingDifferences(runs);
  const name = ({ run, variant }: ComparedVariant): string => `${run}: ${variant.name}`;
  const scores = html`${table(rows, [
    { heading: 'run', cell: ({ run }) => run },
    { heading: 'model', cell: ({ variant }) => variant.name },
    { heading: 'made of', cell: ({ variant }) => variant.description },
    { heading: 'image alignment', cell: ({ variant }) => intervalText(variant.image) },
    { heading: 'text alignment', cell: ({ variant }) => intervalText(variant.text) },
  ])}${chartFigure(
    barChart({
      title: 'CLIP alignments',
      valueLabel: 'mean, with 95 % interval',
      bars: rows.flatMap((row) =>
        (['image', 'text'] as const).map((kind) => {
          const { mean, low, high } = row.variant[kind];
          return { label: name(row), series: kind, value: mean, low, high };
        }),
      ),
      format: (value) => value.toFixed(3),
    }),
  )}`;
  const shared = await sharedPictures(runs, rows);
  return page({
    title: 'Evaluations compared',
    summary:
      differences.length === 0
        ? 'All runs were made with the same settings.'
        : `The runs differ in ${differences.join(', ')}: compare their scores with care.`,
    sections: [
      { heading: 'Scores', body: scores },
      ...(shared === null ? [] : [{ heading: 'Pictures of the same prompt and seed', body: shared }]),
    ],
    footer: runs
      .map(({ label, report }) => `${label}: ${report.concept}, edlora ${report.version}`)
      .join('; '),
  });
}

async function sharedPictures(
  runs: readonly ComparedReport[],
  rows: readonly ComparedVariant[],
): Promise<Html | null> {
  const key = (report: EvaluationReport, prompt: number, seed: number): string =>
    `${report.prompts[prompt]}\n${seed}`;
  const drawn = new Map<ComparedVariant, Map<string, string>>();
  for (const row of rows) {
    const { report } = runs.find(({ label }) => label === row.run)!;
    const files = row.variant.samples.map(
      ({ prompt, seed, file }) => [key(report, prompt, seed), file] as const,
    );
    drawn.set(row, new Map(files));
  }
  const [first, ...others] = rows;
  const keys = [...drawn.get(first!)!.keys()].filter((wanted) =>
    others.every((row) => drawn.get(row)!.has(wanted)),
  );
  if (keys.length === 0) return null;
  const lines: Html[] = [];
  for (const wanted of keys) {
    const [prompt, seed] = wanted.split('\n');
    const cells: Html[] = [];
    for (const row of rows) {
      cells.push(
        html`<td>${await thumbnail(row.folder, drawn.get(row)!.get(wanted)!, row.variant.name)}</td>`,
      );
    }
    lines.push(html`<tr><td>${prompt!}<br><span class="note">seed ${seed!}</span></td>${cells}</tr>\n`);
  }
  const head = rows.map(({ run, variant }) => html`<th>${run}<br>${variant.name}</th>`);
  return html`<div class="scroll"><table class="pictures"><thead><tr><th>prompt</th>${head}</tr></thead><tbody>${lines}</tbody></table></div>`;
}
