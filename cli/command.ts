/** The form of a command: one verb, its options as data, runnable examples, a thin handler. */
import type { Options } from 'yargs';
import type { Io } from './terminal/io.ts';

export interface CommandContext {
  readonly io: Io;
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal;
}

export interface Command<T extends Readonly<Record<string, Options>> = Readonly<Record<string, Options>>> {
  /** The verb, with positional arguments as yargs writes them: `inspect <files..>`. */
  readonly usage: string;
  readonly description: string;
  readonly options: T;
  readonly positionals?: Readonly<Record<string, Options & { type?: 'string' | 'number' }>>;
  /** Command lines that run as they are in a checkout, with what they do. */
  readonly examples: readonly (readonly [commandLine: string, what: string])[];
  /** Text under the options. */
  readonly epilogue?: string;
  run(args: Readonly<Record<string, unknown>>, context: CommandContext): Promise<void>;
}
