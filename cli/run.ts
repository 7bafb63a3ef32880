/** Parses a command line, runs its command, turns errors into text and exit codes. */
import yargs, { type Argv, type Options } from 'yargs';
import { nearestName } from '../src/concepts/nearest-name.ts';
import { EdloraError, FormatError, MismatchError, UsageError } from '../src/errors.ts';
import { systemErrorInWords } from '../src/io/on-disk.ts';
import { toolVersion } from '../src/package-root.ts';
import { withWeightsInMemory } from '../src/runtime/weight-mapping.ts';
import { visible } from '../src/visible.ts';
import type { Command, CommandContext } from './command.ts';
import { loadAllCommands, loadCommand } from './commands/index.ts';
import { globalOptions } from './options.ts';
import { guarded, type Io, paint } from './terminal/io.ts';
import { wrapText } from './terminal/table.ts';

/** 0 done, 1 failed, 2 usage, 3 bad or unsafe input file; 130, 143, 129 ended by Ctrl-C, SIGTERM, SIGHUP. */
export type ExitCode = 0 | 1 | 2 | 3 | 129 | 130 | 143;

export function exitCodeOf(error: unknown, signal: AbortSignal): ExitCode {
  if (signal.aborted) return (signal.reason as { exitCode?: ExitCode } | undefined)?.exitCode ?? 130;
  if (error instanceof UsageError) return 2;
  if (error instanceof FormatError || error instanceof MismatchError) return 3;
  return 1;
}

export interface RunOptions {
  /** What the user typed: `fuse` is short for `edlora fuse`. Default `edlora`. */
  readonly program?: string;
  /** Aborted by Ctrl-C; its reason may carry an `exitCode`. Default: never. */
  readonly signal?: AbortSignal;
  /** Called when a command starts. @param writes whether it writes files, or only prints */
  readonly onCommand?: (writes: boolean) => void;
}

/**
 * Run one command line without touching the process: tests call this too.
 * @param argv arguments after the program's name
 */
export async function run(
  argv: readonly string[],
  given: Io,
  { program = 'edlora', signal = new AbortController().signal, onCommand }: RunOptions = {},
): Promise<ExitCode> {
  const io = guarded(given);
  let keeps: string | undefined;
  try {
    const line = program === 'edlora' ? argv : [program, ...argv];
    const commands = await commandsFor(line);
    keeps = commands.length === 1 ? commands[0]!.keeps : undefined;
    const parser = createParser(commands, { io, signal }, onCommand);
    if (line.length === 0) {
      io.out(`${await parser.getHelp()}\n`);
      return 2;
    }
    let printed = '';
    await parser.parseAsync([...line], {}, (_error: unknown, _args: unknown, output: string) => {
      printed = output;
    });
    const help = withEpilogues(printed, commands);
    if (help !== '') io.out(`${program === 'fuse' ? help.replaceAll('edlora fuse', 'fuse') : help}\n`);
    return 0;
  } catch (error) {
    const verbose = argv.includes('--verbose');
    io.err(`${paint(io, 'red', 'error:')} ${visible(messageOf(error, signal, verbose, keeps))}\n`);
    if (verbose) io.err(`${stackOf(error)}\n`);
    return exitCodeOf(error, signal);
  }
}

/** What went wrong, in one line. */
function messageOf(error: unknown, signal: AbortSignal, verbose: boolean, keeps?: string): string {
  if (signal.aborted && !(error instanceof EdloraError)) {
    return `interrupted; ${keeps ?? 'what was finished is kept, and no half-written file was left'}`;
  }
  const system = systemErrorInWords(error);
  if (system !== null) return system;
  const lines = (error instanceof Error ? error.message : String(error)).trim().split(/\s*\n\s*/);
  const message = lines.join(', ').replaceAll(':, ', ': ');
  return error instanceof EdloraError || verbose
    ? message
    : `${message} (a defect in edlora; --verbose shows where)`;
}

/** Where an error came from, and the errors behind it. Its message may come from a file, its frames do not. */
function stackOf(error: unknown): string {
  const stacks: string[] = [];
  for (let at = error; at instanceof Error; at = at.cause) {
    const frames = (at.stack ?? '').split('\n').filter((line) => /^ {4}at /.test(line));
    stacks.push([`${at.name}: ${visible(at.message)}`, ...frames].join('\n'));
  }
  return stacks.join('\ncaused by: ');
}

/** The command that a line names; all where it asks for help or names none; none for the version alone. */
async function commandsFor([first = '', ...rest]: readonly string[]): Promise<readonly Command[]> {
  if (first === '--version' && rest.length === 0) return [];
  const named = await loadCommand(first);
  return named === null ? loadAllCommands() : [named];
}

function createParser(
  commands: readonly Command[],
  context: CommandContext,
  onCommand: RunOptions['onCommand'],
): Argv {
  let parser: Argv = yargs()
    .scriptName('edlora')
    .usage('$0 <command>\n\nFuse personal Stable Diffusion concepts into one model, without Python.')
    .version(toolVersion())
    .options(globalOptions as Record<string, Options>)
    .strict()
    .demandCommand(1, 'expected a command')
    .recommendCommands()
    .wrap(Math.min(context.io.columns, 100))
    .exitProcess(false)
    .showHelpOnFail(false)
    // yargs goes on to run the command unless this throws.
    .fail((message: string | undefined, error: Error | undefined) => {
      throw error ?? new UsageError(withHint(message ?? 'wrong usage', commands));
    });
  for (const command of commands) parser = register(parser, command, context, onCommand);
  return parser;
}

function register(
  parser: Argv,
  command: Command,
  context: CommandContext,
  onCommand: RunOptions['onCommand'],
): Argv {
  return parser.command(
    command.usage,
    command.description,
    (builder) => {
      let built: Argv = builder.options(command.options);
      for (const [name, options] of Object.entries(command.positionals ?? {})) {
        built = built.positional(name, options as never);
      }
      return built.epilogue(epilogueMark(command));
    },
    (args) => {
      const onlyPrints = command.prints === true || args['dry-run'] === true || args['print-schema'] === true;
      onCommand?.(!onlyPrints);
      return args.mmap === false
        ? withWeightsInMemory(() => command.run(args, context))
        : command.run(args, context);
    },
  );
}

/** Stands in help where a command's examples go: yargs would break their lines. */
const epilogueMark = ({ usage }: Command): string => `@${usage.split(' ')[0]}@`;

function withEpilogues(help: string, commands: readonly Command[]): string {
  return commands.reduce((text, command) => {
    const examples = command.examples.map(([line, what]) => `  # ${what}\n  ${line}\n`);
    const parts = [
      'Examples:',
      ...examples,
      ...(command.epilogue === undefined ? [] : [wrapText(command.epilogue, 80)]),
    ];
    return text.replace(epilogueMark(command), parts.join('\n').trimEnd());
  }, help);
}

/** "Did you mean" for unknown arguments: yargs names them, we know the option names. */
function withHint(message: string, commands: readonly Command[]): string {
  const command = /^Did you mean (.+)\?$/.exec(message)?.[1];
  if (command !== undefined) return `unknown command; did you mean "${command}"?`;
  const unknown = /^Unknown arguments?: (.+)$/.exec(message)?.[1]?.split(', ')[0];
  if (unknown === undefined) return message;
  if (/\.(pth|pt|safetensors|ckpt|bin)$/.test(unknown)) {
    return `"${unknown}" stands alone; files of concepts come after --concepts`;
  }
  const known = [
    ...Object.keys(globalOptions),
    ...commands.flatMap((command) => Object.keys(command.options)),
  ];
  const nearest = nearestName(unknown.replace(/^-+/, ''), known);
  const name = `unknown option "${unknown}"`;
  return nearest === null ? `${name}; --help lists the options` : `${name}; did you mean --${nearest}?`;
}
