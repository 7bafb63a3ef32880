/** The form of a command: one verb, its options as data, runnable examples, a thin handler. */
import type { Options } from 'yargs';
import type { Io } from './terminal/io.ts';

export interface CommandContext {
  readonly io: Io;
  /** Aborted by Ctrl-C and the like: the command ends at its next step, with what it keeps. */
  readonly signal: AbortSignal;
  /** CPU threads of one operator. Default: one per core. */
  readonly threads?: number | undefined;
}

export interface Command<T extends Readonly<Record<string, Options>> = Readonly<Record<string, Options>>> {
  /** The verb, with positional arguments as yargs writes them: `inspect <files..>`. */
  readonly usage: string;
  readonly description: string;
  readonly options: T;
  readonly positionals?: Readonly<Record<string, Options & { type?: 'string' | 'number' }>>;
  /** Command lines that run as they are in a checkout, with what they do. */
  readonly examples: readonly (readonly [commandLine: string, what: string])[];
  /** Whether it only prints: a reader that closes the pipe then has all there is. Default: it writes files. */
  readonly prints?: boolean;
  /** What an interrupted run leaves, and how to go on. Default: finished files, and nothing half-written. */
  readonly keeps?: string | ((args: Readonly<Record<string, unknown>>) => string | undefined);
  /** Text under the options; the exit codes follow it. */
  readonly epilogue?: string;
  /** In place of `EXIT_CODES`, where 0 and 1 mean more than done and failed. */
  readonly exitCodes?: string;
  run(args: Readonly<Record<string, unknown>>, context: CommandContext): Promise<void>;
}
