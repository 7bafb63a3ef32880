/** How benchmarks and evals speak: a table, or with `--json` one JSON document; machine and settings with both. */
import { availableParallelism, cpus, totalmem } from 'node:os';

export interface ToolReport {
  /** What was measured, in a sentence. */
  readonly title: string;
  /** One object a row; keys are column headings. */
  readonly rows: readonly Readonly<Record<string, string | number | null>>[];
  /** Sizes, settings, remarks. */
  readonly notes?: readonly string[];
  /** Anything more for `--json`. */
  readonly details?: unknown;
}

/** The machine a figure belongs to. */
export function machine(): { cpu: string; threads: number; memoryGb: number; node: string } {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    threads: availableParallelism(),
    memoryGb: Math.round(totalmem() / 2 ** 30),
    node: process.versions.node,
  };
}

/** Print a report on standard output, as `process.argv` asks. */
export function printReport(report: ToolReport): void {
  if (process.argv.includes('--json')) {
    process.stdout.write(`${JSON.stringify({ ...report, machine: machine() }, null, 2)}\n`);
    return;
  }
  const { cpu, threads, memoryGb, node } = machine();
  const columns = [...new Set(report.rows.flatMap((row) => Object.keys(row)))];
  const cells = [columns, ...report.rows.map((row) => columns.map((column) => String(row[column] ?? '–')))];
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  const lines = cells.map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
  );
  lines.splice(1, 0, widths.map((width) => '-'.repeat(width)).join('  '));
  const notes = (report.notes ?? []).map((note) => `- ${note}`);
  const where = `${cpu}, ${threads} threads, ${memoryGb} GB, Node ${node}`;
  process.stdout.write([report.title, '', ...lines, '', ...notes, where, ''].join('\n'));
}
