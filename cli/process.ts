/** The process around a command: its streams, its exit code, and what ends it early. */
import { once } from 'node:events';
import { constants } from 'node:os';
import { networksRestWithin, removeUnfinishedFiles } from '../src/index.ts';
import { visible } from '../src/visible.ts';
import { exitCodeOf, sayFailure } from './failure.ts';
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
  const { signal } = interrupt;
  const delivered = await delivery.finished(io, signal, code === 0);
  if (delivered === 'given up') interrupt.endAtOnce(code === 0 ? exitCodeOf(signal.reason, signal) : code);
  const ended = delivered === 'lost' && code === 0 ? 1 : code;
  if (signal.aborted && !networksRestWithin(0)) leave(ended);
  process.exitCode = ended;
}

/** How long an ended command waits for a network that still runs. */
const REST_MS = 1000;

/**
 * Exit, whatever is under way. A process exits only when its networks have come to rest, which takes minutes on a slow
 * machine; so where a signal is the reason, that signal ends it, which shells report by the same code.
 */
function leave(code: number): never {
  const name = SIGNALS.find((signal) => 128 + constants.signals[signal] === code);
  if (name !== undefined && !networksRestWithin(REST_MS)) {
    process.removeAllListeners(name);
    process.kill(process.pid, name);
  }
  process.exit(code);
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
    leave(code);
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

  /**
   * Wait until everything printed has left; after a signal, for a reader that does not read, only a moment.
   * @param done whether the command ended well
   * @returns whether all of it has left, a part of it cannot be delivered, or its reader has not taken it
   */
  async finished(io: Io, signal: AbortSignal, done: boolean): Promise<'delivered' | 'lost' | 'given up'> {
    const left = new Promise<boolean>((resolve) => process.stdout.write('', () => resolve(true)));
    if (!(await Promise.race([left, momentAfter(signal)]))) return 'given up';
    // Errors of the last write are reported after its callback.
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#failure === null) return 'delivered';
    const { code, message } = this.#failure;
    // A reader that closes the pipe early (head, less) has seen enough of what is only printed.
    if (code === 'EPIPE' && !this.#writesFiles) return 'delivered';
    const why = code === 'EPIPE' ? 'its reader closed it' : code === 'ENOSPC' ? 'the disk is full' : message;
    const files = this.#writesFiles && done ? '; the files are written' : '';
    io.err(`error: standard output: the result could not be delivered: ${why}${files}\n`);
    return 'lost';
  }
}

/** How long the last lines of an interrupted command wait for their reader. */
const LAST_LINES_MS = 500;

/** False, a moment after the signal; never, if it does not come. */
async function momentAfter(signal: AbortSignal): Promise<false> {
  if (!signal.aborted) await once(signal, 'abort');
  await new Promise((resolve) => setTimeout(resolve, LAST_LINES_MS).unref());
  return false;
}
