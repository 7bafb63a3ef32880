/** What a fusion's page says of layers: each stage's as a map, the worst of all, and those whose rank was cut. */
import { heatMap } from '../../charts/heat-map.ts';
import { type Html, html } from '../../charts/html.ts';
import { type PageSection, table, wideFigure } from '../../charts/page.ts';
import type { Stage } from '../stage.ts';
import { large, numbered, percent, seconds, shortLayerName } from './page-text.ts';
import type { FusionReport, LayerReport } from './report.ts';

const WORST_LAYERS = 12;
/** Layers side by side in one map; more go into further ones. */
const LAYERS_ACROSS = 48;

const STAGE_TITLES: Readonly<Record<Stage, string>> = {
  text: 'Text encoder',
  cross: 'Keys and values of cross-attention',
  spatial: 'Spatial layers of the UNet',
};

export function stageSection(
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

export function worstSection({ layers }: FusionReport, names: readonly string[]): PageSection {
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

export function truncationSection({ layers }: FusionReport): PageSection[] {
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
