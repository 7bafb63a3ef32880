/** A fusion's report as a page for people: what was kept, who fights whom, where, and what it was made of. */
import { barChart } from '../../charts/bar-chart.ts';
import { heatMap } from '../../charts/heat-map.ts';
import { type Html, html } from '../../charts/html.ts';
import { lineChart } from '../../charts/line-chart.ts';
import { chartFigure, type PageSection, page, table } from '../../charts/page.ts';
import type { FusionRecipe } from '../recipe.ts';
import { STAGES, type Stage } from '../stage.ts';
import type { FusionReport, LayerReport, ParameterChoice } from './report.ts';
import { fusionVerdict } from './verdict.ts';

const percent = (share: number): string => `${share < 0 ? '−' : ''}${Math.abs(Math.round(100 * share))} %`;
const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
/** `160`, `2.7e9` */
const large = (value: number): string =>
  value < 1e5 ? String(Math.round(value)) : value.toExponential(1).replace('+', '');
const WORST_LAYERS = 12;
/** More concepts than this are counted in the title, and shown as a map: bars would fill screens. */
const FEW_CONCEPTS = 5;
/** Layers side by side in one map; more go into further ones. */
const LAYERS_ACROSS = 48;
/** Longer names would take the room of the charts. */
const LONGEST_LABEL = 26;

const STAGE_TITLES: Readonly<Record<Stage, string>> = {
  text: 'Text encoder',
  cross: 'Keys and values of cross-attention',
  spatial: 'Spatial layers of the UNet',
};

/** `down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q` → `down 0.1 attn1.q`. */
export function shortLayerName(layerName: string): string {
  return layerName
    .replace(/^text_model\.encoder\.layers\.(\d+)\./, 'layer $1 ')
    .replace(/^(down|up)_blocks\.(\d+)\.attentions\.(\d+)\./, '$1 $2.$3 ')
    .replace(/^(down|up)_blocks\.(\d+)\.resnets\.(\d+)\./, '$1 $2 res$3 ')
    .replace(/^mid_block\.attentions\.(\d+)\./, 'mid $1 ')
    .replace(/transformer_blocks\.0\./, '')
    .replace(/self_attn\./, '')
    .replace(/\.to_(q|k|v)$/, '.$1')
    .replace(/\.to_out\.0$/, '.out')
    .replace(/_proj$/, '');
}

/**
 * The whole document: one file that loads nothing.
 * @param recipe what the fusion was made of, if known
 */
export function fusionReportPage(report: FusionReport, recipe: FusionRecipe | null): string {
  const names = report.concepts.map(({ name }) => name);
  const sections = [
    keptSection(report),
    collisionSection(report, names),
    ...STAGES.flatMap((stage) => stageSection(report, stage, names)),
    worstSection(report, names),
    ...truncationSection(report),
    ...choiceSections(report),
    ...lossSection(report),
    ...refinementSection(report),
    costSection(report),
    ...(recipe === null ? [] : [recipeSection(recipe)]),
  ];
  return page({
    title: `Fusion of ${names.length > FEW_CONCEPTS ? `${names.length} concepts` : names.join(', ')}`,
    summary: html`${fusionVerdict(report).map((sentence) => html`${sentence} `)}`,
    sections,
    footer:
      recipe === null
        ? ''
        : `edlora ${recipe.versions.edlora}, onnxruntime ${recipe.versions.onnxruntime}, Node ${recipe.versions.node}`,
  });
}

function keptSection({ concepts, stages }: FusionReport): PageSection {
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

/** A map that narrow screens scroll instead of shrinking its names away. */
const wideFigure = (svg: string, caption: string): Html =>
  html`<div class="wide">${chartFigure(svg, caption)}</div>`;

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

function collisionSection({ collisions }: FusionReport, names: readonly string[]): PageSection {
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

/** Names as axis labels: short, each once. */
function numbered(names: readonly string[]): string[] {
  const short = names.map((name) =>
    name.length > LONGEST_LABEL ? `${name.slice(0, LONGEST_LABEL - 1)}…` : name,
  );
  return short.map((name, i) => (short.indexOf(name) === i ? name : `${name} (${i + 1})`));
}

/** Share kept per layer and concept, in as many maps as fit side by side. */
function layerMaps(layers: readonly LayerReport[], stage: Stage, names: readonly string[]): Html[] {
  const rows = numbered(names);
  const maps = Math.ceil(layers.length / LAYERS_ACROSS);
  const across = Math.ceil(layers.length / maps);
  const labelsWidth = 30 + 6.4 * Math.max(0, ...rows.map(({ length }) => length));
  const cellWidth = Math.min(44, (1040 - labelsWidth) / across);
  return Array.from({ length: maps }, (_, k) => {
    const shown = layers.slice(k * across, (k + 1) * across);
    return wideFigure(
      heatMap({
        title: `Share kept per layer, ${stage}${maps > 1 ? `, part ${k + 1} of ${maps}` : ''}`,
        rows,
        columns: shown.map(({ layerName }) => shortLayerName(layerName)),
        values: rows.map((_, i) => shown.map(({ kept }) => kept[i] ?? null)),
        domain: [0, 1],
        format: percent,
        width: Math.ceil(labelsWidth + cellWidth * shown.length),
      }),
      k === maps - 1
        ? 'Bright is kept, dark is lost; point at a cell for its number. Empty cells: the concept does not train that layer.'
        : '',
    );
  });
}

function stageSection(
  { layers, stages }: FusionReport,
  stage: Stage,
  names: readonly string[],
): PageSection[] {
  const own = layers.filter((layer) => layer.stage === stage);
  const summary = stages.find((candidate) => candidate.stage === stage);
  if (own.length === 0 || summary === undefined) return [];
  const changes = own.flatMap(({ relativeChange }) => (relativeChange === null ? [] : [relativeChange]));
  const moved = own.flatMap(({ preservedChange }) => (preservedChange === null ? [] : [preservedChange]));
  const conditions = own.flatMap(({ condition }) => (condition === null ? [] : [condition]));
  return [
    {
      heading: STAGE_TITLES[stage],
      body: html`<p>${own.length} layers by ${summary.method}, ridge ${summary.ridge}, preservation ${summary.preserve}; solved in
${seconds(summary.elapsedMs)}. ${changes.length === 0 ? null : `The largest change is ${Math.max(...changes).toFixed(1)} times the largest of the concepts’ own. `}${moved.length === 0 ? null : `On preserved captions, answers moved by up to ${percent(Math.max(...moved))} of the features’ size. `}${conditions.length === 0 ? null : `Condition numbers up to ${large(Math.max(...conditions))}.`}</p>${layerMaps(own, stage, names)}`,
    },
  ];
}

function worstSection({ layers }: FusionReport, names: readonly string[]): PageSection {
  const cells = layers.flatMap((layer) =>
    layer.kept.flatMap((kept, i) =>
      kept === null ? [] : [{ layer, kept, name: names[i]!, by: disturber(layer, i, names) }],
    ),
  );
  const worst = cells.sort((a, b) => a.kept - b.kept).slice(0, WORST_LAYERS);
  return {
    heading: 'Where least was kept',
    body: table(worst, [
      { heading: 'layer', cell: ({ layer }) => shortLayerName(layer.layerName) },
      { heading: 'stage', cell: ({ layer }) => layer.stage },
      { heading: 'concept', cell: ({ name }) => name },
      { heading: 'kept', cell: ({ kept }) => kept, format: percent },
      { heading: 'most in its way', cell: ({ by }) => by },
      { heading: 'change against the concepts’', cell: ({ layer }) => layer.relativeChange },
    ]),
  };
}

/** The other concept whose change does most on these features; none with one concept. */
function disturber({ crosstalk }: LayerReport, i: number, names: readonly string[]): string {
  const others = crosstalk[i]!.map((value, j) => ({ value, j })).filter(({ j }) => j !== i);
  return others.length === 0 ? '' : names[others.reduce((a, b) => (b.value > a.value ? b : a)).j]!;
}

function truncationSection({ layers }: FusionReport): PageSection[] {
  const cut = layers.flatMap(({ truncation, ...layer }) =>
    truncation === null ? [] : [{ ...layer, ...truncation }],
  );
  if (cut.length === 0) return [];
  const worst = cut.toSorted((a, b) => b.featureError - a.featureError).slice(0, WORST_LAYERS);
  const ranks = cut.map(({ rank }) => rank);
  return [
    {
      heading: 'What cutting the rank cost',
      body: html`<p>${cut.length} layers were cut, to ranks from ${Math.min(...ranks)} to ${Math.max(...ranks)}. The layers it cost most:</p>${table(
        worst,
        [
          { heading: 'layer', cell: ({ layerName }) => shortLayerName(layerName) },
          { heading: 'exact rank', cell: ({ exactRank }) => exactRank },
          { heading: 'rank', cell: ({ rank }) => rank },
          { heading: 'error on features', cell: ({ featureError }) => featureError, format: percent },
          { heading: 'error of the weights', cell: ({ plainError }) => plainError, format: percent },
        ],
      )}`,
    },
  ];
}

function choiceSections({ stages }: FusionReport): PageSection[] {
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

function lossSection({ layers }: FusionReport): PageSection[] {
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

function refinementSection({ refinement }: FusionReport): PageSection[] {
  if (refinement === null) return [];
  const { losses, elapsedMs } = refinement;
  // Single steps see few states: a running mean shows where they go.
  const points = losses.map((_, i) => {
    const window = losses.slice(Math.max(0, i - 9), i + 1);
    return { x: i + 1, y: window.reduce((a, b) => a + b, 0) / window.length };
  });
  const chart = lineChart({
    title: 'Loss of the refinement',
    xLabel: 'step',
    yLabel: 'mean square of the guided prediction’s error',
    series: [{ name: 'loss', points }],
  });
  return [
    {
      heading: 'How the refinement went',
      body: html`<p>${losses.length} steps in ${seconds(elapsedMs)}.</p>${chartFigure(chart, 'Mean of ten steps.')}`,
    },
  ];
}

function costSection({
  stages,
  elapsedMs,
  collectMs,
  peakMemoryBytes,
  concepts,
  statistics,
  preservedCaptions,
}: FusionReport): PageSection {
  return {
    heading: 'What it cost',
    body: html`<p>${seconds(elapsedMs)} in all, ${seconds(collectMs)} of them for features; ${(peakMemoryBytes / 1e6).toFixed(0)} MB of memory at most.
${preservedCaptions} captions were preserved.</p>${table(stages, [
      { heading: 'stage', cell: ({ stage }) => stage },
      { heading: 'layers', cell: ({ layers }) => layers },
      { heading: 'solved in', cell: ({ elapsedMs: own }) => seconds(own) },
    ])}${table(
      concepts.map(({ name }, i) => ({ name, origin: statistics[i] ?? '' })),
      [
        { heading: 'concept', cell: ({ name }) => name },
        { heading: 'features', cell: ({ origin }) => origin },
      ],
    )}`,
  };
}

function recipeSection({ base, concepts, options, captions }: FusionRecipe): PageSection {
  const files = [
    ...base.files.map((file) => ({ of: 'base', ...file })),
    ...concepts.flatMap(({ name, files: own }) => own.map((file) => ({ of: name, ...file }))),
  ];
  const settings = Object.entries(options).map(([name, value]) => ({
    name,
    value: typeof value === 'object' ? JSON.stringify(value) : String(value),
  }));
  const hash = (sha256: string): Html => html`<code title="${sha256}">${sha256.slice(0, 16)}…</code>`;
  return {
    heading: 'What it was made of',
    body: html`${table(files, [
      { heading: 'of', cell: ({ of }) => of },
      { heading: 'file', cell: ({ path }) => path },
      { heading: 'SHA-256', cell: ({ sha256 }) => hash(sha256) },
    ])}${table(
      concepts.map((concept) => ({ ...concept, words: concept.words.join(' ') })),
      [
        { heading: 'concept', cell: ({ name }) => name },
        { heading: 'words', cell: ({ words }) => words },
        { heading: 'strength, UNet', cell: ({ unetStrength }) => unetStrength },
        { heading: 'strength, text encoder', cell: ({ textEncoderStrength }) => textEncoderStrength },
      ],
    )}${table(settings, [
      { heading: 'option', cell: ({ name }) => name },
      { heading: 'value', cell: ({ value }) => value },
    ])}<p class="note">Captions preserved: ${captions.map((caption) => `“${caption}”`).join(', ') || 'none'}.</p>`,
  };
}
