/** What commands over adapters say at the end. */
import { statSync } from 'node:fs';
import type { JobResult } from '../../src/index.ts';
import { visible, visibleLines } from '../../src/visible.ts';
import { type Io, sayNote } from '../terminal/io.ts';
import { bytes, nearPath, table } from '../terminal/table.ts';

/** Dropped entries shown; --json has them all. */
const SHOWN = 10;

/** Places, counts, and what was left out. */
export function sayResult(
  io: Io,
  { out, layers, words, dropped, notes }: JobResult,
  remarks: readonly string[] = [],
): void {
  const info = statSync(out);
  const size = info.isDirectory() ? '' : `, ${bytes(info.size)}`;
  const held = [`${layers} layers`, ...(words.length > 0 ? [`words ${words.map(visible).join(' ')}`] : [])];
  io.out(`${nearPath(out)}: ${held.join(', ')}${size}\n`);
  for (const remark of remarks) io.out(`${visibleLines(remark)}\n`);
  for (const note of notes) sayNote(io, note);
  if (dropped.length === 0) return;
  io.out(`left out (--drop):\n`);
  for (const { name, reason } of dropped.slice(0, SHOWN)) io.out(`  ${visible(name)}: ${visible(reason)}\n`);
  if (dropped.length > SHOWN) io.out(`  … and ${dropped.length - SHOWN} more\n`);
}

export interface CutLayer {
  readonly id: string;
  readonly rank: number;
  readonly relativeError: number;
}

/** `1.2e-3`; `0` for an exact result. */
export function errorText(relativeError: number): string {
  return relativeError < 1e-12 ? '0' : relativeError.toPrecision(2);
}

/** The layers that lost most, as a table. */
export function worstLayers(io: Io, layers: readonly CutLayer[], count = 8): string {
  const worst = [...layers].sort((a, b) => b.relativeError - a.relativeError).slice(0, count);
  return table(
    worst,
    [
      { title: 'layer', value: ({ id }) => id, flexible: true },
      { title: 'rank', value: ({ rank }) => String(rank), align: 'right' },
      { title: 'error', value: ({ relativeError }) => errorText(relativeError), align: 'right' },
    ],
    io.columns,
  );
}

/** `ranks 4–16 (mean 9.2), largest error 0.012` */
export function cutSummary(layers: readonly CutLayer[]): string {
  const ranks = layers.map(({ rank }) => rank);
  const [least, most] = [Math.min(...ranks), Math.max(...ranks)];
  const mean = ranks.reduce((sum, rank) => sum + rank, 0) / ranks.length;
  const largest = Math.max(...layers.map(({ relativeError }) => relativeError));
  const range = least === most ? `rank ${least}` : `ranks ${least}–${most} (mean ${mean.toFixed(1)})`;
  return `${range}, largest error of a layer ${errorText(largest)}`;
}

/** One JSON document. */
export function printJson(io: Io, value: unknown): void {
  io.out(`${JSON.stringify(value, null, 2)}\n`);
}
