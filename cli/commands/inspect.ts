/** `edlora inspect`: what weight files and model folders hold. */
import path from 'node:path';
import type { Options } from 'yargs';
import { type Inspection, inspect } from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import { asTyped } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { type AdapterInspection, adapterText, inspectAdapter } from '../merging/inspection.ts';
import { texts } from '../options.ts';
import { type Io, paint } from '../terminal/io.ts';
import { bytes, nearPath, table } from '../terminal/table.ts';

const options = {
  json: { type: 'boolean', default: false, describe: 'Print one JSON document with everything in full' },
  hash: {
    type: 'boolean',
    default: true,
    describe: 'Read every byte: sha256 and checksums; --no-hash looks at headers and LoRA factors only',
  },
  tensors: { type: 'boolean', default: false, describe: 'List every tensor; --json always does' },
} as const satisfies Record<string, Options>;

export const inspectCommand: Command = {
  usage: 'inspect <files..>',
  prints: true,
  description: 'Say what weight files and model folders hold',
  options,
  positionals: {
    files: { type: 'string', describe: 'Weight files, LoRA folders (PEFT, diffusers) or model folders' },
  },
  examples: [
    ['edlora inspect fixtures/tiny-world/concepts/edlora_smiley.pth', 'Words, layers and ranks of a concept'],
    [
      'edlora inspect sd_xl_base_1.0.safetensors style-sdxl.safetensors',
      'An SDXL checkpoint and a LoRA for it',
    ],
    ['edlora inspect --json fixtures/tiny-world/model', 'A model folder, for other programs'],
  ],
  run: runInspect,
};

async function runInspect(
  args: Readonly<Record<string, unknown>>,
  { io, signal }: CommandContext,
): Promise<void> {
  const hash = args.hash === true;
  const inspections: (Inspection & { adapter: AdapterInspection | null })[] = [];
  for (const file of texts(args, 'files')) {
    signal.throwIfAborted();
    const inspection = await inspect(file, { hash, signal });
    const isNone = ['checkpoint', 'model-folder', 'component', 'deprojector', 'text-states'].includes(
      inspection.kind,
    );
    const { adapter, refusal } = isNone
      ? { adapter: null, refusal: null }
      : await inspectAdapter(file, hash, signal);
    // What is of no known layout says so already.
    const told =
      refusal === null ||
      inspection.notes.includes(refusal) ||
      (inspection.kind === 'tensors' && refusal.includes('of no known layer'));
    const notes = told ? inspection.notes : [...inspection.notes, refusal];
    inspections.push({ ...inspection, notes: notes.map(asTyped), adapter });
  }
  if (args.json === true) {
    io.out(`${JSON.stringify(inspections.length === 1 ? inspections[0] : inspections, null, 2)}\n`);
    return;
  }
  const descriptions = inspections.map(
    (inspection) =>
      describe(io, inspection) +
      (inspection.adapter === null ? '' : adapterText(io, inspection.adapter)) +
      (args.tensors === true ? `\n${tensorTable(io, inspection)}` : ''),
  );
  io.out(descriptions.join('\n'));
}

const LABEL_WIDTH = 12;
/** A second text encoder's name stands out by two. */
const LONGEST_LABEL = 14;

/** Notes may list hundreds of names; --json has them all. */
const NOTE_WIDTH = 300;

function describe(io: Io, inspection: Inspection): string {
  const { description, files, tokens, layers, scales, parts, dtypes, metadata } = inspection;
  const several = files.length > 1 ? ` in ${files.length} files` : '';
  const lines: [string, string][] = [
    ['kind', description],
    ['file', `${inspection.format}, ${bytes(inspection.sizeBytes)}${several}`],
    [
      'tensors',
      `${inspection.tensorCount} (${counted(dtypes)}), ${grouped(inspection.parameterCount)} numbers`,
    ],
  ];
  for (const { path: file, sha256 } of files) {
    if (sha256 === null) continue;
    const name = path.relative(inspection.path, file);
    lines.push(['sha256', name === '' ? sha256 : `${sha256.slice(0, 16)}… ${name}`]);
  }
  if (tokens.length > 0) {
    const few = tokens.slice(0, 8).map(({ word, shape }) => `${word} [${shape.join(', ')}]`);
    lines.push(['words', few.join(', ') + (tokens.length > 8 ? `, … ${tokens.length - 8} more` : '')]);
  }
  for (const [part, count] of Object.entries(parts)) lines.push([part, `${grouped(count)} numbers`]);
  for (const [component, ranks] of Object.entries(layers ?? {})) {
    const counts = Object.entries(ranks).map(([rank, count]) =>
      /^\d+$/.test(rank) ? `${count} layers of rank ${rank}` : `${count} layers of kind ${rank}`,
    );
    lines.push([component, counts.join(', ') || 'none']);
  }
  if (scales !== null) {
    const several = Object.entries(scales).map(([scale, count]) => `${scale} (${count} layers)`);
    lines.push(['scale', several.length === 1 ? Object.keys(scales)[0]! : several.join(', ')]);
  }
  for (const [key, value] of Object.entries(metadata)) {
    const line = `${key}: ${value.replace(/\s+/g, ' ')}`;
    lines.push(['metadata', clip(line, io.columns - LABEL_WIDTH - 3)]);
  }
  for (const note of inspection.notes) {
    const text = note.replace(`${inspection.path}: `, '').replace(/\s+/g, ' ');
    lines.push(['note', clip(text, NOTE_WIDTH)]);
  }
  const body = lines.map(
    ([label, value]) => `  ${clip(visible(label), LONGEST_LABEL).padEnd(LABEL_WIDTH)} ${visible(value)}\n`,
  );
  return `${paint(io, 'bold', nearPath(inspection.path))}\n${body.join('')}`;
}

function tensorTable(io: Io, { tensors }: Inspection): string {
  return table(
    tensors,
    [
      { title: 'tensor', value: ({ name }) => name, flexible: true },
      { title: 'dtype', value: ({ dtype }) => dtype },
      { title: 'shape', value: ({ shape }) => `[${shape.join(', ')}]`, align: 'right' },
    ],
    io.columns,
  );
}

function counted(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([what, count]) => `${count} ${what}`)
    .join(', ');
}

function grouped(count: number): string {
  return count.toLocaleString('en');
}

function clip(line: string, width: number): string {
  return line.length <= width ? line : `${line.slice(0, width - 1)}…`;
}
