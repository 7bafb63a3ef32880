/** Tables that fit the terminal, and numbers and paths as people read them. */
import path from 'node:path';
import { visible } from '../../src/visible.ts';

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string;
  /** Numbers stand to the right. Default `left`. */
  readonly align?: 'left' | 'right';
  /** Whether it may be cut to make the table fit. At most one column should. */
  readonly flexible?: boolean;
}

const GAP = '  ';

/** Characters, not bytes; combining marks and wide letters are rare in names of concepts and files. */
const widthOf = (text: string): number => [...text].length;

/** The end of a long text says more than its beginning in paths and layer names. */
export function shorten(text: string, width: number): string {
  const letters = [...text];
  return letters.length <= width ? text : `…${letters.slice(letters.length - width + 1).join('')}`;
}

/** Rows as aligned lines, at most `columns` wide where a flexible column allows it. */
export function table<Row>(rows: readonly Row[], columns: readonly Column<Row>[], width: number): string {
  const cells = [
    columns.map(({ title }) => visible(title)),
    ...rows.map((row) => columns.map(({ value }) => visible(value(row)))),
  ];
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => widthOf(line[i]!))));
  const total = widths.reduce((a, b) => a + b, 0) + GAP.length * (columns.length - 1);
  const flexible = columns.findIndex((column) => column.flexible);
  if (total > width && flexible >= 0) widths[flexible] = Math.max(8, widths[flexible]! - (total - width));
  const line = (values: readonly string[]): string =>
    values
      .map((value, i) => {
        const text = shorten(value, widths[i]!);
        const blank = ' '.repeat(widths[i]! - widthOf(text));
        return columns[i]!.align === 'right' ? blank + text : text + blank;
      })
      .join(GAP)
      .trimEnd();
  return `${cells.map(line).join('\n')}\n`;
}

/** `0.56 MB` */
export function bytes(count: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB'];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

/** `2.8 s`, `3 min 05 s` */
export function duration(ms: number): string {
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`;
}

/** `89 %`; `–` for null. */
export function percent(share: number | null): string {
  return share === null ? '–' : `${Math.round(100 * share)} %`;
}

/** `1.4 times`; `12 times` */
export function times(factor: number): string {
  return `${factor < 9.95 ? factor.toFixed(1) : Math.round(factor)} times`;
}

/** A path as one would read it, its control characters visible: relative below the working folder, absolute elsewhere. */
export function nearPath(file: string): string {
  const relative = path.relative('.', file);
  return visible(relative === '' || relative.startsWith('..') ? file : relative);
}

/** Lines broken at blanks to fit `width`; what follows a label (two blanks or more behind it) stays in its column. */
export function wrapText(text: string, width: number): string {
  return text
    .split('\n')
    .flatMap((line) => wrapLine(line, width))
    .join('\n');
}

function wrapLine(line: string, width: number): string[] {
  if (widthOf(line) <= width) return [line];
  const indent = ' '.repeat((/^\s*\S+ {2,}/.exec(line) ?? /^\s*/.exec(line)!)[0].length);
  const lines: string[] = [];
  let rest = line;
  while (widthOf(rest) > width) {
    const cut = rest.lastIndexOf(' ', width);
    if (cut <= indent.length) break;
    lines.push(rest.slice(0, cut).trimEnd());
    rest = indent + rest.slice(cut + 1);
  }
  return [...lines, rest];
}
