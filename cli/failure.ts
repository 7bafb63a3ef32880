/** What became of a command that did not end well: one line of text, and an exit code. */
import { EdloraError, FormatError, InterruptedError, MismatchError, UsageError } from '../src/errors.ts';
import { systemErrorInWords } from '../src/index.ts';
import { visible } from '../src/visible.ts';
import { asTyped, usefulIn } from './arguments.ts';
import { type Io, paint } from './terminal/io.ts';

/** 0 done, 1 failed, 2 usage, 3 bad or unsafe input file; 130, 143, 129 ended by Ctrl-C, SIGTERM, SIGHUP. */
export type ExitCode = 0 | 1 | 2 | 3 | 129 | 130 | 143;

/** The same in the help of every command; `verify` says more of its own. */
export const EXIT_CODES =
  'Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad input file; ended by Ctrl-C 130, by SIGTERM 143, by a hang-up 129.';

export function exitCodeOf(error: unknown, signal: AbortSignal): ExitCode {
  if (isAnswerTo(signal, error))
    return (signal.reason as { exitCode?: ExitCode } | null | undefined)?.exitCode ?? 130;
  if (error instanceof UsageError) return 2;
  if (error instanceof FormatError || error instanceof MismatchError) return 3;
  return 1;
}

/** Whether a job ended because its signal said so. A disk that is full when the state is saved is a failure all the same. */
function isAnswerTo(signal: AbortSignal, error: unknown): boolean {
  if (!signal.aborted) return false;
  for (let at = error; at instanceof Error; at = at.cause) {
    if (at === signal.reason || at instanceof InterruptedError || at.name === 'AbortError') return true;
  }
  return false;
}

export interface FailureContext {
  readonly io: Io;
  readonly signal: AbortSignal;
  /** Whether to say where it happened. */
  readonly verbose: boolean;
  /** Options of the command. */
  readonly options?: ReadonlySet<string> | undefined;
  /** What an interrupted command leaves; see `Command.keeps`. */
  readonly keeps?: string | undefined;
}

/** Say what went wrong. @returns the exit code */
export function sayFailure(error: unknown, context: FailureContext): ExitCode {
  const { io, signal, verbose } = context;
  io.err(`${paint(io, 'red', 'error:')} ${visible(messageOf(error, context))}\n`);
  if (verbose) io.err(`${stackOf(error)}\n`);
  return exitCodeOf(error, signal);
}

/** What went wrong, in one line. */
function messageOf(error: unknown, { signal, verbose, keeps, options }: FailureContext): string {
  if (isAnswerTo(signal, error) && !(error instanceof InterruptedError)) {
    return `interrupted; ${keeps ?? 'what was finished is kept, and no half-written file was left'}`;
  }
  const system = systemErrorInWords(error);
  if (system !== null) return system;
  const lines = textOf(error)
    .trim()
    .split(/\s*\n\s*/);
  const message = lines.join(', ').replaceAll(':, ', ': ');
  if (error instanceof EdloraError)
    return asTyped(options === undefined ? message : usefulIn(options, message));
  return verbose ? message : `${message} (a defect in edlora; --verbose shows where)`;
}

/** Of anything that can be thrown. */
function textOf(error: unknown): string {
  if (error instanceof Error) return error.message === '' ? error.name : error.message;
  try {
    return String(error);
  } catch {
    return 'something was thrown that is no error';
  }
}

/** Where an error came from, and the errors behind it. Its message may come from a file, its frames do not. */
function stackOf(error: unknown): string {
  const stacks: string[] = [];
  for (let at = error; at instanceof Error; at = at.cause) {
    const frames = (at.stack ?? '').split('\n').filter((line) => /^ {4}at /.test(line));
    stacks.push([`${visible(at.name)}: ${visible(at.message)}`, ...frames.map(visible)].join('\n'));
  }
  return stacks.join('\ncaused by: ');
}
