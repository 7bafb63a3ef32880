/** Where commands write: results to `out`, everything else to `err`. Tests hand in their own. */
import { styleText } from 'node:util';
import { visibleLines } from '../../src/visible.ts';
import { asTyped } from '../arguments.ts';

export interface Io {
  /** Results. */
  out(text: string): void;
  /** Warnings, errors, progress as lines. */
  err(text: string): void;
  /** Put `line` in place of the last line of `err`; only where that is a terminal. */
  redraw(line: string): void;
  /** Whether `err` is a terminal that can redraw a line. */
  readonly interactive: boolean;
  /** Width of the terminal in characters. */
  readonly columns: number;
  readonly colour: boolean;
}

export type Style = Parameters<typeof styleText>[0];

/** Text in a style, where colours are wanted. */
export function paint(io: Io, style: Style, text: string): string {
  return io.colour ? styleText(style, text, { validateStream: false }) : text;
}

/** What `paint` adds, in the styles that this program uses: bold, red, green, yellow, cyan and their ends. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: it is about them
const OWN_STYLES = /(\u001b\[(?:1|22|31|32|33|36|39)m)/;

/**
 * Text as it may reach a terminal: lines, printable characters, and the program's own colours. Whatever else got this far is
 * shown as `\u001b`: names are made visible where they are put into text; this stands behind all of them.
 */
export function printable(text: string, colour: boolean): string {
  if (!colour) return visibleLines(text);
  return text
    .split(OWN_STYLES)
    .map((part, i) => (i % 2 === 1 ? part : visibleLines(part)))
    .join('');
}

/** Colours on a terminal, unless NO_COLOR or --no-color say otherwise; FORCE_COLOR turns them on anywhere. */
export function wantsColour(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  isTerminal: boolean,
): boolean {
  if (argv.includes('--no-color') || (env.NO_COLOR ?? '') !== '') return false;
  if (env.FORCE_COLOR !== undefined) return env.FORCE_COLOR !== '0' && env.FORCE_COLOR !== 'false';
  return isTerminal && env.TERM !== 'dumb';
}

/** The process's own streams. */
export function processIo(argv: readonly string[]): Io {
  const colour = wantsColour(argv, process.env, process.stdout.isTTY === true);
  return {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
    redraw: (line) => process.stderr.write(`\r\x1b[2K${line}`),
    interactive: process.stderr.isTTY === true && process.env.TERM !== 'dumb',
    columns: process.stdout.columns ?? 80,
    colour,
  };
}

/** An Io behind which nothing but `printable` text gets. */
export function guarded(io: Io): Io {
  return {
    ...io,
    out: (text) => io.out(printable(text, io.colour)),
    err: (text) => io.err(printable(text, io.colour)),
    redraw: (line) => io.redraw(printable(line, io.colour).replaceAll('\n', ' ')),
  };
}

/** A warning on a line of its own. */
export function sayNote(io: Io, note: string): void {
  io.err(`${paint(io, 'yellow', 'note:')} ${visibleLines(asTyped(note)).replace(/\s*\n\s*/g, ' ')}\n`);
}
