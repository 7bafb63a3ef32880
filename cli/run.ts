/** Parses a command line, runs its command, turns errors into text and exit codes. */
import yargs, { type Argv, type Options } from 'yargs';
import { UsageError } from '../src/errors.ts';
import { withLeanWeights, withWeightsInMemory } from '../src/index.ts';
import { nearestName } from '../src/nearest-name.ts';
import { toolVersion } from '../src/package-root.ts';
import type { Command, CommandContext } from './command.ts';
import { loadAllCommands, loadCommand } from './commands/index.ts';
import { EXIT_CODES, type ExitCode, sayFailure } from './failure.ts';
import { globalOptions, number, text } from './options.ts';
import { refuseRetired } from './retired.ts';
import { guarded, type Io } from './terminal/io.ts';
import { wrapText } from './terminal/table.ts';

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
  let options: ReadonlySet<string> | undefined;
  try {
    const line = program === 'edlora' ? argv : [program, ...argv];
    refuseRetired(line);
    const commands = await commandsFor(line);
    const parser = createParser(commands, { io, signal }, (command, args) => {
      options = new Set([...Object.keys(globalOptions), ...Object.keys(command.options)]);
      keeps = typeof command.keeps === 'function' ? command.keeps(args) : command.keeps;
      const onlyPrints = command.prints === true || args['dry-run'] === true || args['print-schema'] === true;
      onCommand?.(!onlyPrints);
    });
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
    return sayFailure(error, { io, signal, keeps, options, verbose: argv.includes('--verbose') });
  }
}

/** The command that a line names; all where it asks for help or names none; none for the version alone. */
async function commandsFor([first = '', ...rest]: readonly string[]): Promise<readonly Command[]> {
  if (first === '--version' && rest.length === 0) return [];
  const named = await loadCommand(first);
  return named === null ? loadAllCommands() : [named];
}

/** Called with the command that runs, before it does. */
type OnStart = (command: Command, args: Readonly<Record<string, unknown>>) => void;

function createParser(commands: readonly Command[], context: CommandContext, onStart: OnStart): Argv {
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
  for (const command of commands) parser = register(parser, command, context, onStart);
  return parser;
}

function register(parser: Argv, command: Command, context: CommandContext, onStart: OnStart): Argv {
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
      const own = { ...context, threads: threadsOf(args) };
      onStart(command, args);
      const job = () => command.run(args, own);
      const lean = args.lean === true ? () => withLeanWeights(job) : job;
      return args.mmap === false ? withWeightsInMemory(lean) : lean();
    },
  );
}

/** More than any machine has. */
const MAX_THREADS = 1024;

/** @throws {UsageError} unless it is a whole number from 1 to MAX_THREADS */
function threadsOf(args: Readonly<Record<string, unknown>>): number | undefined {
  const value = text(args, 'threads');
  if (value === undefined) return undefined;
  const threads = number('--threads', value);
  if (Number.isInteger(threads) && threads >= 1 && threads <= MAX_THREADS) return threads;
  throw new UsageError(`--threads: expected a whole number from 1 to ${MAX_THREADS}, got ${value}`);
}

/** Stands in help where a command's examples go: yargs would break their lines. */
const epilogueMark = ({ usage }: Command): string => `@${usage.split(' ')[0]}@`;

function withEpilogues(help: string, commands: readonly Command[]): string {
  return commands.reduce((text, command) => {
    const examples = command.examples.map(([line, what]) => `  # ${what}\n  ${line}\n`);
    const { epilogue = '', exitCodes = EXIT_CODES } = command;
    const parts = [
      'Examples:',
      ...examples,
      ...(epilogue === '' ? [] : [wrapText(epilogue, 80), '']),
      wrapText(exitCodes, 80),
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
    const [only] = commands;
    return commands.length > 1 || only === undefined || 'concepts' in only.options
      ? `"${unknown}" stands alone; files of concepts come after --concepts`
      : `"${unknown}" is one too many; expected edlora ${only.usage}`;
  }
  const known = [
    ...Object.keys(globalOptions),
    ...commands.flatMap((command) => Object.keys(command.options)),
  ];
  const nearest = nearestName(unknown.replace(/^-+/, ''), known);
  const name = `unknown option "${unknown}"`;
  return nearest === null ? `${name}; --help lists the options` : `${name}; did you mean --${nearest}?`;
}
