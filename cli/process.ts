/** The process around a command: its streams, its exit code, and what ends it early. */
import { constants } from 'node:os';
import { removeUnfinishedFiles } from '../src/io/temporary-names.ts';
import { visible } from '../src/visible.ts';
import { sayFailure } from './failure.ts';
import { run } from './run.ts';
import { guarded, type Io, processIo } from './terminal/io.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Run the process's own command line and exit with its code. */
export async function start(program: 'edlora' | 'fuse'): Promise<void> {
  const argv = process.argv.slice(2);
  const own = processIo(argv);
  const io = guarded(own);
  const interrupt = new Interrupt(io);
  const delivery = new Delivery();
  // What nobody waited for ends like every other failure, but at once: nobody can say in which state the job is.
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => {
      const { signal } = interrupt;
      interrupt.endAtOnce(sayFailure(error, { io, signal, verbose: argv.includes('--verbose') }));
    });
  }
  const code = await run(argv, own, {
    program,
    signal: interrupt.signal,
    onCommand: (writes) => delivery.expect(writes),
  });
  process.exitCode = (await delivery.settled(io)) && code === 0 ? 1 : code;
}

/**
 * The first signal asks the job to end in order: at its next step, with what it has kept. The second one ends the process at
 * once.
 */
class Interrupt {
  readonly #controller = new AbortController();
  readonly #io: Io;

  constructor(io: Io) {
    this.#io = io;
    for (const name of SIGNALS) {
      process.on(name, () => {
        const code = 128 + constants.signals[name];
        if (this.signal.aborted) {
          this.endAtOnce(code);
          return;
        }
        // The terminal itself is gone after a hang-up; nobody can press again.
        const again = name === 'SIGINT' ? '; once more ends at once' : '';
        io.err(`${io.interactive ? '\n' : ''}stopping at the next step${again}\n`);
        this.#controller.abort(Object.assign(new Error(`got ${name}`), { exitCode: code }));
      });
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Half-written files go; those that cannot be removed are named. */
  endAtOnce(code: number): never {
    const left = removeUnfinishedFiles();
    const what =
      left.length === 0
        ? 'no half-written file was left'
        : `these could not be removed: ${left.map(visible).join(', ')}`;
    this.#io.err(`ended at once; ${what}\n`);
    process.exit(code);
  }
}

/**
 * Whether results reach their reader. A job that writes files goes on when nobody reads what it prints; but a result that
 * could not be delivered is an error.
 */
class Delivery {
  #failure: NodeJS.ErrnoException | null = null;
  /** Until a command says otherwise, what is printed is all there is. */
  #writesFiles = false;

  constructor() {
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      this.#failure ??= error;
    });
    // Progress and messages that nobody can see are no reason to stop.
    process.stderr.on('error', () => undefined);
  }

  expect(writesFiles: boolean): void {
    this.#writesFiles = writesFiles;
  }

  /** Wait until everything printed has left. @returns whether a part of it could not be delivered */
  async settled(io: Io): Promise<boolean> {
    await new Promise<void>((resolve) => process.stdout.write('', () => resolve()));
    // Errors of the last write are reported after its callback.
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#failure === null) return false;
    const { code, message } = this.#failure;
    // A reader that closes the pipe early (head, less) has seen enough of what is only printed.
    if (code === 'EPIPE' && !this.#writesFiles) return false;
    const why = code === 'EPIPE' ? 'its reader closed it' : code === 'ENOSPC' ? 'the disk is full' : message;
    const files = this.#writesFiles ? '; the files are written' : '';
    io.err(`error: standard output: the result could not be delivered: ${why}${files}\n`);
    return true;
  }
}
