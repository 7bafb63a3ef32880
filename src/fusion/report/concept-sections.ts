/** What a fusion's page says of its concepts: what was kept of each, and who is in whose way. */
import { barChart } from '../../charts/bar-chart.ts';
import { heatMap } from '../../charts/heat-map.ts';
import { type Html, html } from '../../charts/html.ts';
import { chartFigure, type PageSection, table, wideFigure } from '../../charts/page.ts';
import { numbered, percent } from './page-text.ts';
import type { FusionReport } from './report.ts';

/** More concepts than this are counted in the title, and shown as a map: bars would fill screens. */
export const FEW_CONCEPTS = 5;

export function keptSection({ concepts, stages }: FusionReport): PageSection {
  const share = (value: number | null): string | null => (value === null ? null : percent(value));
  const rows = concepts.flatMap(({ name, kept, baselines }) =>
    stages.map(({ stage }) => ({
      name,
      stage,
      kept: kept[stage],
      average: baselines.average[stage],
      sum: baselines.sum[stage],
    })),
  );
  return {
    heading: 'What was kept of each concept',
    body: html`<p>The share of a concept’s own effect on its own features that the fused model still has: 100 % is all of it,
0 % is no better than the base, below that is worse. Beside it what the plain average and the plain sum of the same
concepts would have kept.</p>${keptChart(concepts, stages)}${table(rows, [
      { heading: 'concept', cell: ({ name }) => name },
      { heading: 'stage', cell: ({ stage }) => stage },
      { heading: 'fused', cell: ({ kept }) => share(kept) },
      { heading: 'average', cell: ({ average }) => share(average) },
      { heading: 'sum', cell: ({ sum }) => share(sum) },
    ])}`,
  };
}

/** Bars for a few concepts, a map for many. */
function keptChart(concepts: FusionReport['concepts'], stages: FusionReport['stages']): Html {
  const labels = numbered(concepts.map(({ name }) => name));
  const title = 'Share kept per concept and stage';
  const ways = stages.flatMap(({ stage }) => [
    { stage, series: 'fused', pick: ({ kept }: FusionReport['concepts'][number]) => kept[stage] },
    ...(['average', 'sum'] as const).map((series) => ({
      stage,
      series,
      pick: ({ baselines }: FusionReport['concepts'][number]) => baselines[series][stage],
    })),
  ]);
  if (concepts.length > FEW_CONCEPTS) {
    return wideFigure(
      heatMap({
        title,
        rows: labels,
        columns: ways.map(({ stage, series }) => `${stage}, ${series}`),
        values: concepts.map((concept) => ways.map(({ pick }) => pick(concept))),
        domain: [0, 1],
        format: percent,
        width: 900,
      }),
      'Bright is kept, dark is lost.',
    );
  }
  const bars = concepts.flatMap((concept, i) =>
    ways.flatMap(({ stage, series, pick }) => {
      const value = pick(concept);
      return value === null ? [] : [{ label: `${labels[i]}: ${stage}`, series, value: Math.max(0, value) }];
    }),
  );
  const format = (value: number): string => (value === 0 ? '0 % or less' : percent(value));
  return chartFigure(
    barChart({ title, valueLabel: 'share kept', domain: [0, 1], bars, format }),
    'Shares below zero are drawn as zero; the table has them.',
  );
}

export function collisionSection({ collisions }: FusionReport, names: readonly string[]): PageSection {
  if (names.length < 2) {
    return { heading: 'Who is in whose way', body: html`<p>There is one concept only.</p>` };
  }
  return {
    heading: 'Who is in whose way',
    body: html`<p>How much each concept’s own change (column) would do on the features of another (row), relative to what that one
does there itself. Near 0: they do not meet. Near 1 or above: both want the same features for different things, and the
fusion has to tell them apart.</p>${wideFigure(
      heatMap({
        title: 'Collisions',
        rows: numbered(names),
        columns: numbered(names),
        values: collisions.map((row, i) => row.map((value, j) => (i === j ? null : value))),
        domain: [0, Math.max(1, ...collisions.flat())],
        rowLabel: 'on the features of',
        columnLabel: 'the change of',
        width: Math.min(900, 260 + 90 * names.length),
      }),
      'Rows are disturbed by columns; bright is strong.',
    )}`,
  };
}
