/** From what V8 says of the code that vitest made to lines of the sources. */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { SourceMap, type SourceMapPayload } from 'node:module';
import path from 'node:path';

export interface EnteredScript {
  /** From the root. */
  readonly file: string;
  /** Begin and end in the made code, and whether it ran; later ranges lie inside of earlier ones, or behind them. */
  readonly ranges: readonly (readonly [number, number, boolean])[];
}

/** A module as it is run. */
export interface MadeCode {
  readonly code: string;
  readonly map: SourceMapPayload;
}

/** By file, its lines that ran, from 1. */
export type EnteredLines = Readonly<Record<string, readonly number[]>>;

/** Where a test file leaves what it entered, in the working folder. */
export const rawFile = (test: string): string => path.resolve(`${test.replaceAll('/', '+')}.entered`);

/** For each place in the made code, the line that it comes from; places, ascending. */
export type Origins = readonly (readonly [place: number, line: number])[];

export function originsOf({ code, map }: MadeCode): Origins {
  const origins: [number, number][] = [];
  const sourceMap = new SourceMap(map);
  let begin = 0;
  for (const [row, text] of code.split('\n').entries()) {
    for (const { index } of text.matchAll(/\w+|[^\s\w]/g)) {
      const entry = sourceMap.findEntry(row, index);
      if ('originalLine' in entry && entry.generatedLine === row)
        origins.push([begin + index, entry.originalLine + 1]);
    }
    begin += text.length + 1;
  }
  return origins;
}

export function linesOf({ ranges }: EnteredScript, origins: Origins): number[] {
  const size = (origins.at(-1)?.[0] ?? 0) + 1;
  const ran = new Uint8Array(size);
  for (const [begin, end, one] of ranges) ran.fill(one ? 1 : 0, Math.max(begin, 0), Math.max(end, 0));
  const lines = new Set<number>();
  for (const [place, line] of origins) if (ran[place] === 1) lines.add(line);
  return [...lines].sort((a, b) => a - b);
}

/** What a test file left, which is taken away; null if it left nothing: it could not be loaded. */
export async function takeEntered(
  test: string,
  origins: (file: string) => Promise<Origins>,
): Promise<EnteredLines | null> {
  const raw = rawFile(test);
  if (!existsSync(raw)) return null;
  const scripts = JSON.parse(readFileSync(raw, 'utf8')) as EnteredScript[];
  rmSync(raw);
  const lines: Record<string, number[]> = {};
  for (const script of scripts) lines[script.file] = linesOf(script, await origins(script.file));
  return lines;
}
