/** `edlora verify`: whether a file is what its header says. */
import type { Options } from 'yargs';
import { EdloraError } from '../../src/errors.ts';
import { cacheFolder, type VerifyReport, verifyFile } from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import type { Command, CommandContext } from '../command.ts';
import type { Args } from '../merging/options.ts';
import { printJson } from '../merging/result.ts';
import { option, outputOptions, texts } from '../options.ts';
import { type Io, sayNote } from '../terminal/io.ts';
import { nearPath, table } from '../terminal/table.ts';

const options = {
  inputs: option('Inputs:', 'Folders to look for inputs that have moved', { array: true }),
  rebuild: {
    type: 'boolean',
    group: 'Inputs:',
    describe: 'Repeat the job and compare the tensors [default: for the folder of a fusion]',
  },
  json: outputOptions.json,
} as const satisfies Record<string, Options>;

export const verifyCommand: Command = {
  usage: 'verify <files..>',
  prints: true,
  description: 'Check a result against its recipe: own hash, hashes of inputs, on demand the job itself',
  options,
  positionals: { files: { type: 'string', describe: 'Files or folders that edlora wrote' } },
  examples: [
    ['edlora verify merged.safetensors', 'Hashes only'],
    ['edlora verify merged.safetensors --rebuild', 'Make it again and compare'],
    [
      'edlora verify merged-sdxl.safetensors --inputs loras',
      'SDXL, with inputs that moved to another folder',
    ],
    ['edlora verify fused', 'Solve a fusion again, from stored statistics where they are'],
  ],
  exitCodes:
    'Exit codes: 0 everything is right, 1 something differs or failed, 2 wrong usage, 3 bad input file; ended by Ctrl-C 130, by SIGTERM 143, by a hang-up 129.',
  run: runVerify,
};

async function runVerify(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const reports: VerifyReport[] = [];
  for (const file of texts(args, 'files')) {
    const rebuild = typeof args.rebuild === 'boolean' ? { rebuild: args.rebuild } : {};
    const settings = { search: texts(args, 'inputs'), ...rebuild };
    reports.push(
      await verifyFile(file, {
        ...settings,
        signal,
        threads,
        cacheFolder: cacheFolder(),
        onNote: (text) => sayNote(io, text),
      }),
    );
  }
  if (args.json === true) printJson(io, reports.length === 1 ? reports[0] : reports);
  else for (const report of reports) say(io, report);
  const wrong = reports.filter(({ ok }) => !ok);
  if (wrong.length > 0) {
    throw new EdloraError(`${wrong.map(({ file }) => nearPath(file)).join(', ')}: not as recorded`);
  }
}

function say(io: Io, { file, kind, content, inputs, rebuilt, ok }: VerifyReport): void {
  const hash =
    content === null
      ? 'states no hash'
      : content.stated === content.actual
        ? 'tensors as stated'
        : 'tensors differ from the stated hash';
  const again = rebuilt === null ? '' : rebuilt ? ', made again alike' : ', made again DIFFERENTLY';
  io.out(`${nearPath(file)}: ${visible(kind ?? 'no recipe')}, ${hash}${again}: ${ok ? 'right' : 'WRONG'}\n`);
  if (inputs.length === 0) return;
  io.out(
    table(
      inputs,
      [
        { title: '  input', value: ({ path: own }) => `  ${nearPath(own)}`, flexible: true },
        { title: 'sha256', value: ({ sha256 }) => `${sha256.slice(0, 12)}…` },
        {
          title: 'state',
          value: ({ state, reason }) => (reason === null ? state : `${state}: ${reason}`),
        },
      ],
      io.columns,
    ),
  );
}
