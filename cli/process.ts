/** The process around a command: its streams, its exit code, and what Ctrl-C does. */
import { removeUnfinishedFiles } from '../src/io/temporary-names.ts';
import { run } from './run.ts';
import { processIo } from './terminal/io.ts';

/** Run the process's own command line and exit with its code. */
export async function start(program: 'edlora' | 'fuse'): Promise<void> {
  const argv = process.argv.slice(2);
  const controller = new AbortController();
  // A network run cannot be stopped half-way, so the process ends here; finished files stay, others go.
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    process.once(signal, () => {
      controller.abort(new Error('interrupted'));
      removeUnfinishedFiles();
      process.stderr.write('\nerror: interrupted; no half-written file was left\n');
      process.exit(code);
    });
  }
  // A reader that closes the pipe early (head, less) has seen enough.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  process.exitCode = await run(argv, processIo(argv), { program, signal: controller.signal });
}
