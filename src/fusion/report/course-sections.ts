/** What a fusion's page says of how its numbers were found: parameters tried, losses by iteration, refinement. */
import { html } from '../../charts/html.ts';
import { lineChart } from '../../charts/line-chart.ts';
import { chartFigure, type PageSection, table } from '../../charts/page.ts';
import type { HeldOutCheck } from '../best-check.ts';
import { STAGES, type Stage } from '../stage.ts';
import { seconds, shortLayerName } from './page-text.ts';
import type { FusionReport, ParameterChoice } from './report.ts';

export function choiceSections({ stages }: FusionReport): PageSection[] {
  return stages.flatMap(({ stage, choices }) =>
    (['ridge', 'preserve'] as const).flatMap((name) => {
      const choice = choices[name];
      return choice === null ? [] : [choiceSection(stage, name, choice)];
    }),
  );
}

function choiceSection(stage: Stage, name: 'ridge' | 'preserve', choice: ParameterChoice): PageSection {
  const { chosen, candidates, reason } = choice;
  const what = name === 'ridge' ? 'ridge' : 'preservation';
  const points = candidates.filter(({ value }) => value > 0);
  const chart = lineChart({
    title: `Share kept on held-out features by ${what}`,
    xLabel: what,
    yLabel: 'share kept',
    xScale: 'log',
    series: [{ name: 'kept', points: points.map(({ value, kept }) => ({ x: value, y: kept })) }],
  });
  return {
    heading: `How the ${what} of ${stage} was chosen`,
    body: html`<p>${chosen}: ${reason}.</p>${chartFigure(chart)}${table(candidates, [
      { heading: what, cell: ({ value }) => value },
      {
        heading: 'kept, held-out',
        cell: ({ kept }) => kept,
        format: (value) => `${(100 * value).toFixed(1)} %`,
      },
      { heading: 'largest change', cell: ({ largestChange }) => largestChange },
      { heading: 'change of preserved answers', cell: ({ preservedChange }) => preservedChange },
    ])}`,
  };
}

export function lossSection({ layers }: FusionReport): PageSection[] {
  const iterated = layers.filter(({ losses }) => losses !== null && losses.length > 1);
  if (iterated.length === 0) return [];
  // The slowest of each stage say most; hundreds of curves would say nothing.
  const shown = STAGES.flatMap((stage) =>
    iterated
      .filter((layer) => layer.stage === stage)
      .toSorted((a, b) => b.losses!.length - a.losses!.length)
      .slice(0, 3),
  );
  const chart = lineChart({
    title: 'Loss by iteration',
    xLabel: 'iteration',
    yLabel: 'mean squared error',
    yScale: 'log',
    series: shown.map(({ layerName, losses }) => ({
      name: shortLayerName(layerName),
      points: losses!.map((loss, i) => ({ x: i, y: loss })),
    })),
  });
  return [
    {
      heading: 'How the loss fell',
      body: chartFigure(chart, 'The three layers of each stage that took most iterations.'),
    },
  ];
}

/** Single steps see few states: the mean of the last ten, by step from 1, shows where they go. */
export function refinementMeans(losses: readonly number[]): { x: number; y: number }[] {
  return losses.map((_, i) => {
    const window = losses.slice(Math.max(0, i - 9), i + 1);
    return { x: i + 1, y: window.reduce((a, b) => a + b, 0) / window.length };
  });
}

export function refinementSection({ refinement }: FusionReport): PageSection[] {
  if (refinement === null) return [];
  const { losses, checks, elapsedMs } = refinement;
  const chart = lineChart({
    title: 'Loss of the refinement',
    xLabel: 'step',
    yLabel: 'mean square of the guided prediction’s error',
    series: [
      { name: 'loss', points: refinementMeans(losses) },
      ...(checks.length === 0
        ? []
        : [{ name: 'held out', points: checks.map(({ step, error }) => ({ x: step, y: error })) }]),
    ],
  });
  const kept = checks.length === 0 ? '' : `; ${heldOutChange(checks)}`;
  return [
    {
      heading: 'How the refinement went',
      body: html`<p>${losses.length} steps in ${seconds(elapsedMs)}${kept}.</p>${chartFigure(chart, 'Loss: mean of ten steps. Held out: other prompts and seeds.')}`,
    },
  ];
}

/** What became of the error on held-out predictions. */
function heldOutChange(checks: readonly HeldOutCheck[]): string {
  const change = checks.at(-1)!.error / checks[0]!.error - 1;
  return change < 0
    ? `the held-out error is ${(-100 * change).toFixed(0)} % lower than before`
    : 'held-out predictions got no better, so nothing was changed';
}
