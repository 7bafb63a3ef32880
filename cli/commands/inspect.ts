/** `edlora inspect`: what weight files and model folders hold. */
import type { Options } from 'yargs';
import { type Inspection, inspect } from '../../src/index.ts';
import type { Command, CommandContext } from '../command.ts';
import { texts } from '../options.ts';
import { type Io, paint } from '../terminal/io.ts';
import { bytes } from '../terminal/table.ts';

const options = {
  json: { type: 'boolean', default: false, describe: 'Print one JSON document with everything in full' },
  hash: { type: 'boolean', default: false, describe: 'Also compute each file’s sha256' },
} as const satisfies Record<string, Options>;

export const inspectCommand: Command = {
  usage: 'inspect <files..>',
  description: 'Say what weight files and model folders hold',
  options,
  positionals: { files: { type: 'string', describe: 'Weight files, diffusers folders or PEFT folders' } },
  examples: [
    ['edlora inspect fixtures/tiny-world/concepts/edlora_smiley.pth', 'Words, layers and ranks of a concept'],
    ['edlora inspect --json fixtures/tiny-world/model', 'A model folder, for other programs'],
  ],
  run: runInspect,
};

async function runInspect(args: Readonly<Record<string, unknown>>, { io }: CommandContext): Promise<void> {
  const inspections: Inspection[] = [];
  for (const file of texts(args, 'files'))
    inspections.push(await inspect(file, { hash: args.hash === true }));
  if (args.json === true) {
    io.out(`${JSON.stringify(inspections.length === 1 ? inspections[0] : inspections, null, 2)}\n`);
    return;
  }
  io.out(inspections.map((inspection) => describe(io, inspection)).join('\n'));
}

const LABEL_WIDTH = 12;

function describe(io: Io, inspection: Inspection): string {
  const { tokens, layers, dtypes, metadata } = inspection;
  const lines: [string, string][] = [
    ['kind', inspection.description],
    ['file', `${inspection.format}, ${bytes(inspection.sizeBytes)}`],
    [
      'tensors',
      `${inspection.tensorCount} (${Object.entries(dtypes)
        .map(([dtype, count]) => `${count} ${dtype}`)
        .join(', ')}), ` + `${inspection.parameterCount.toLocaleString('en')} numbers`,
    ],
  ];
  if (inspection.sha256 !== null) lines.push(['sha256', inspection.sha256]);
  if (tokens.length > 0) {
    const few = tokens.slice(0, 8).map(({ word, shape }) => `${word} [${shape.join(', ')}]`);
    lines.push(['words', few.join(', ') + (tokens.length > 8 ? `, … ${tokens.length - 8} more` : '')]);
  }
  for (const [component, ranks] of Object.entries(layers ?? {})) {
    const parts = Object.entries(ranks).map(([rank, count]) => `${count} layers of rank ${rank}`);
    lines.push([component, parts.join(', ') || 'none']);
  }
  for (const [key, value] of Object.entries(metadata)) lines.push([`  ${key}`, clip(value, 60)]);
  for (const note of inspection.notes) lines.push(['note', note]);
  const body = lines.map(([label, value]) => `  ${label.padEnd(LABEL_WIDTH)} ${value}\n`);
  return `${paint(io, 'bold', inspection.path)}\n${body.join('')}`;
}

function clip(value: string, width: number): string {
  const line = value.replace(/\s+/g, ' ');
  return line.length <= width ? line : `${line.slice(0, width - 1)}…`;
}
