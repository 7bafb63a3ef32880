/** `edlora lint`: what other tools would have made of a merge. */
import type { Options } from 'yargs';
import { foreignMergeNames, type LintReport, lintFiles } from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import type { Command, CommandContext } from '../command.ts';
import { type Args, baseOption, choice, figure, strengthOptions, strengthsOf } from '../merging/options.ts';
import { errorText, printJson } from '../merging/result.ts';
import { option, outputOptions, text, texts } from '../options.ts';
import { table } from '../terminal/table.ts';

const options = {
  ...strengthOptions,
  base: baseOption,
  as: option('Tools:', `One of ${foreignMergeNames.join(', ')} [default: all]`),
  rank: option('Tools:', 'Asked of tools that truncate [default: the largest input’s]'),
  json: outputOptions.json,
} as const satisfies Record<string, Options>;

const concept = (name: string): string => `fixtures/tiny-world/concepts/edlora_${name}.pth`;

export const lintCommand: Command = {
  usage: 'lint <files..>',
  prints: true,
  description: 'Say how far other tools’ merges of these files are from the true sum',
  options,
  positionals: { files: { type: 'string', describe: 'LoRA files, or PEFT folders' } },
  examples: [
    [`edlora lint ${concept('smiley')} ${concept('bullseye')} --strength 0.7 0.5`, 'All tools'],
    [`edlora lint ${concept('smiley')} ${concept('bullseye')} --as kohya-merge`, 'One of them'],
    ['edlora lint style-sdxl.safetensors toy-sdxl.safetensors', 'LoRAs for SDXL'],
  ],
  run: runLint,
};

async function runLint(args: Args, { io, signal }: CommandContext): Promise<void> {
  const tool = text(args, 'as');
  const reports = await lintFiles({
    inputs: strengthsOf(args, texts(args, 'files')),
    tools: tool === undefined ? foreignMergeNames : [choice('as', tool, foreignMergeNames)],
    rank: figure(args, 'rank') ?? null,
    base: text(args, 'base'),
    signal,
  });
  if (args.json === true) return printJson(io, tool === undefined ? reports : reports[0]);
  io.out(
    table(
      reports,
      [
        { title: 'tool', value: ({ tool: name }) => name },
        {
          title: 'error',
          value: (report) => (report.refusal === null ? errorText(report.relativeError) : 'refuses'),
          align: 'right',
        },
        {
          title: 'gain',
          value: (report) => (report.refusal === null ? report.gain.toFixed(2) : '–'),
          align: 'right',
        },
        { title: 'why', value: why, flexible: true },
      ],
      io.columns,
    ),
  );
  io.out('error: ‖theirs − true sum‖ / ‖true sum‖; gain: how much of the true sum they have, 1 is right\n');
  for (const { name, reason } of reports[0]?.unsupported ?? [])
    io.out(`not in the sums: ${visible(name)}: ${visible(reason)}\n`);
  for (const { tool: name, refusal } of reports)
    if (refusal !== null) io.out(`${visible(name)} refuses: ${visible(refusal)}\n`);
}

function why({ defect, refusal, relativeError }: LintReport): string {
  return refusal === null && relativeError > 1e-6 ? defect : '';
}
