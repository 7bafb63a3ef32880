/** What `fuse` says when it is done. */
import path from 'node:path';
import {
  type Fusion,
  type FusionReport,
  keptSentence,
  LARGE_CHANGE,
  LITTLE_KEPT,
  rankOf,
  refinementAdvice,
  STAGES,
  type WrittenFile,
} from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import { asTyped } from '../arguments.ts';
import { type Io, paint } from '../terminal/io.ts';
import { bytes, duration, nearPath, percent, table, times, wrapText } from '../terminal/table.ts';
import { rankRange } from './plan.ts';

interface Written {
  readonly folder: string;
  readonly files: readonly WrittenFile[];
}

/** What a user should know before trusting the result; empty if nothing is off. */
export function fusionNotes({ concepts, stages, statistics }: FusionReport): string[] {
  const notes: string[] = [];
  for (const { name, kept, worst } of concepts) {
    const weak = STAGES.filter((stage) => (kept[stage] ?? 1) < LITTLE_KEPT);
    if (weak.length === 0) continue;
    notes.push(
      `${name} kept little in ${weak.join(' and ')}; lower --ridge or --preserve there, or fuse fewer concepts (its worst layer: ${worst?.layerName})`,
    );
  }
  for (const { stage, largestChange } of stages) {
    if (largestChange === null || largestChange <= LARGE_CHANGE) continue;
    notes.push(
      `${stage}: a layer changed ${times(largestChange)} as much as any concept’s own, other prompts may suffer; raise --ridge ${stage}=… or --preserve ${stage}=…`,
    );
  }
  for (const origin of statistics) {
    const passedOver = origin.split('; ')[1];
    if (passedOver !== undefined) notes.push(`${passedOver}: left aside`);
  }
  return notes;
}

/** The result as `--json` prints it. */
export function resultData(
  { report, concepts, base, options }: Fusion,
  { folder, files }: Written,
  said: readonly string[] = [],
): object {
  return {
    base: base.path,
    folder,
    files,
    concepts: concepts.map(({ concept, name }) => ({
      name,
      words: concept.tokens.map(({ word }) => word),
      rank: rankRange(concept),
      layers: concept.layers.size,
    })),
    options,
    notes: [...said, ...fusionNotes(report)],
    report,
  };
}

/** How many concepts' statistics were there already. */
function storedNote({ statistics }: FusionReport): string {
  const stored = statistics.filter((origin) => !/^(collected|fused)\b/.test(origin)).length;
  return stored === 0 ? '' : ` (${stored} of ${statistics.length} concepts were stored)`;
}

/** The result for people. */
export function resultText(fusion: Fusion, { folder, files }: Written, io: Io): string {
  const { report, concepts, layers, base } = fusion;
  const rank = Math.max(0, ...[...layers.values()].map(({ delta }) => rankOf(delta)));
  const rows = report.concepts.map((concept, i) => ({ ...concept, concept: concepts[i]!.concept }));
  const conceptTable = table(
    rows,
    [
      { title: 'concept', value: ({ name }) => name },
      { title: 'file', value: ({ file }) => path.basename(file), flexible: true },
      { title: 'rank', value: ({ concept }) => rankRange(concept), align: 'right' },
      { title: 'layers', value: ({ concept }) => String(concept.layers.size), align: 'right' },
      ...STAGES.map((stage) => ({
        title: stage,
        value: ({ kept }: (typeof rows)[number]) => percent(kept[stage]),
        align: 'right' as const,
      })),
    ],
    io.columns,
  );
  const stages = table(
    report.stages,
    [
      { title: 'stage', value: ({ stage }) => stage },
      { title: 'layers', value: (stage) => String(stage.layers), align: 'right' },
      {
        title: 'largest change',
        value: ({ largestChange }) => (largestChange === null ? '–' : times(largestChange)),
        align: 'right',
      },
      { title: 'solved in', value: ({ elapsedMs }) => duration(elapsedMs), align: 'right' },
    ],
    io.columns,
  );
  const written = table(
    files,
    [
      { title: `files in ${nearPath(folder)}`, value: (file) => path.basename(file.path) },
      { title: 'size', value: (file) => bytes(file.sizeBytes), align: 'right' },
      { title: 'what', value: (file) => file.what },
    ],
    io.columns,
  );
  const notes = fusionNotes(report);
  const verdict =
    notes.length === 0
      ? [paint(io, 'green', wrapText(visible(keptSentence(report)), io.columns))]
      : notes.map((note) => `${paint(io, 'yellow', 'note:')} ${visible(note)}`);
  const advice = refinementAdvice(report);
  const count = report.concepts.length;
  return [
    `Fused ${count} concept${count === 1 ? '' : 's'} on ${nearPath(base.path)}`,
    '',
    conceptTable,
    'Kept: the share of each concept’s own effect on its own features that survived.',
    '',
    stages,
    'Largest change: of any layer, relative to the largest of the concepts’ own changes.',
    `${layers.size} layers, rank up to ${rank}; ${report.preservedCaptions} captions preserved.`,
    `${duration(report.elapsedMs)}, of which features ${duration(report.collectMs)}${storedNote(report)}; ${bytes(report.peakMemoryBytes)} of memory.`,
    '',
    written,
    ...verdict,
    ...(advice === null ? [] : [wrapText(`${asTyped(advice)} --dry-run says how much.`, io.columns)]),
    '',
  ].join('\n');
}
