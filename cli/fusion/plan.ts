/** What `fuse --dry-run` says. */
import path from 'node:path';
import {
  type Concept,
  type FusionEstimate,
  type FusionOptions,
  type FusionPlan,
  isGuided,
  STAGES,
  type Stage,
  stageOf,
} from '../../src/index.ts';
import { asTyped } from '../arguments.ts';
import { bytes, duration, nearPath, table } from '../terminal/table.ts';

/** `text=0.01,cross=0.1,spatial=0.01` */
export function stageList(values: FusionOptions['ridge']): string {
  return STAGES.map((stage) => `${stage}=${values[stage]}`).join(',');
}

/** `4`, or `4–8`; `–` without layers. */
export function rankRange({ layers }: Concept): string {
  const ranks = [...layers.values()].map(({ rank }) => rank);
  const [least, most] = [Math.min(...ranks), Math.max(...ranks)];
  return ranks.length === 0 ? '–' : least === most ? String(least) : `${least}–${most}`;
}

const stageLayers = ({ layers }: Concept, stage: Stage): number =>
  [...layers.values()].filter((layer) => stageOf(layer) === stage).length;

/** The plan as `--json` prints it. */
export function planData(
  { concepts, options, captions, layers }: FusionPlan,
  estimate: FusionEstimate,
  base: string,
  out: string,
  notes: readonly string[],
): object {
  return {
    base,
    out: path.resolve(out),
    concepts: concepts.map(({ concept, name, unetStrength, textEncoderStrength }) => ({
      name,
      file: concept.path,
      format: concept.format,
      words: concept.tokens.map(({ word }) => word),
      unetStrength,
      textEncoderStrength,
      layers: Object.fromEntries(STAGES.map((stage) => [stage, stageLayers(concept, stage)])),
      ranks: [...new Set([...concept.layers.values()].map(({ rank }) => rank))].sort((a, b) => a - b),
    })),
    options,
    captions,
    layers,
    estimate,
    notes: notes.map(asTyped),
  };
}

/** The plan for people. */
export function planText(
  plan: FusionPlan,
  estimate: FusionEstimate,
  base: string,
  out: string,
  columns: number,
  notes: readonly string[],
): string {
  const { options, captions, layers, concepts } = plan;
  const rows = table(
    concepts,
    [
      { title: 'concept', value: ({ name }) => name },
      { title: 'file', value: ({ concept }) => path.basename(concept.path), flexible: true },
      { title: 'rank', value: ({ concept }) => rankRange(concept), align: 'right' },
      {
        title: 'strength',
        value: (p) => [...new Set([p.unetStrength, p.textEncoderStrength])].join('/'),
        align: 'right',
      },
      ...STAGES.map((stage) => ({
        title: stage,
        value: ({ concept }: { concept: Concept }) => String(stageLayers(concept, stage)),
        align: 'right' as const,
      })),
    ],
    columns,
  );
  const counts = STAGES.map((stage) => `${stage} ${layers[stage].length}`).join(', ');
  const { runs, steps, seed, statistics, guidanceScale, contrast } = options;
  const guided = isGuided(guidanceScale) ? `guidance ${guidanceScale}, contrast ${contrast}` : 'no guidance';
  return [
    `Would fuse ${concepts.length} concepts on ${nearPath(base)}; nothing is written.`,
    '',
    rows,
    `layers to solve: ${counts}`,
    `method ${options.method}${options.rank === null ? '' : `, rank ${options.rank}`}`,
    `ridge ${stageList(options.ridge)}`,
    `preserve ${stageList(options.preserve)} over ${captions.length} captions`,
    `${runs} denoising run${runs === 1 ? '' : 's'} of ${steps} steps a concept, ${guided}, seed ${seed}`,
    `${statistics} statistics`,
    estimateText(estimate),
    `results would go to ${nearPath(path.resolve(out))}`,
    ...notes.map((note) => `note: ${asTyped(note)}`),
    '',
  ].join('\n');
}

function estimateText(estimate: FusionEstimate): string {
  const { passes, keptPasses, refinePasses, portPasses, passMs, elapsedMs, memoryBytes } = estimate;
  const left = passes - keptPasses;
  const kept = keptPasses === 0 ? '' : `, ${keptPasses} more are kept`;
  const collected =
    passes === 0
      ? 'no features by denoising'
      : left === 0
        ? 'all features are kept: none is collected'
        : `${left} denoising steps of ${duration(passMs!)}${kept}`;
  if (passMs === null) return collected;
  const whole = `about ${duration(elapsedMs!)} in all, ${bytes(memoryBytes!)} of memory`;
  const refinements = [
    ...(refinePasses === 0 ? [] : [`a refinement worth ${refinePasses} predictions of a picture`]),
    ...(portPasses === 0 ? [] : [`a refinement of the port worth ${portPasses} predictions of a picture`]),
  ];
  return refinements.length === 0
    ? `${collected}; ${whole}`
    : [collected, ...refinements, `${whole}, and what a step of training takes`].join('\n');
}
