/** Where commands write: results to `out`, everything else to `err`. Tests hand in their own. */
import { styleText } from 'node:util';

export interface Io {
  /** Results. */
  out(text: string): void;
  /** Progress, warnings, errors. */
  err(text: string): void;
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
  return {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
    interactive: process.stderr.isTTY === true && process.env.TERM !== 'dumb',
    columns: process.stdout.columns ?? 80,
    colour: wantsColour(argv, process.env, process.stdout.isTTY === true),
  };
}
