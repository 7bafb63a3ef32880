/** Work shared out to processes: each is this evaluation's own file again, asked for one job after the other. */
import { type ChildProcess, fork } from 'node:child_process';
import { availableParallelism } from 'node:os';

/** What starts a process of the kind; its command line is the parent's and this. */
export const WORKER_FLAG = '--worker';

/** `--workers n`: processes that draw, and the mark of those that do. For `parseArgs`. */
export const WORKER_OPTIONS = {
  workers: { type: 'string', default: String(availableParallelism()) },
  worker: { type: 'boolean', default: false },
} as const;

type Reply<R> = { readonly result: R } | { readonly error: string };

export interface SharedOut<J, R> {
  readonly jobs: readonly J[];
  /** Processes. */
  readonly workers: number;
  /** The program: `serveJobs` is called in it where `WORKER_FLAG` is given. */
  readonly program: string;
  readonly onResult?: (result: R, job: J) => void;
}

/** @returns results in the order of the jobs */
export async function shareOut<J extends object, R>({
  jobs,
  workers,
  program,
  onResult,
}: SharedOut<J, R>): Promise<R[]> {
  const results = new Array<R>(jobs.length);
  let next = 0;
  const children = Array.from({ length: Math.min(workers, jobs.length) }, () =>
    fork(program, [...process.argv.slice(2), WORKER_FLAG]),
  );
  try {
    await Promise.all(
      children.map(async (child) => {
        for (let at = next++; at < jobs.length; at = next++) {
          results[at] = await asked<J, R>(child, jobs[at]!);
          onResult?.(results[at]!, jobs[at]!);
        }
        child.disconnect();
      }),
    );
  } catch (error) {
    for (const child of children) child.kill();
    throw error;
  }
  return results;
}

/** A child's answer to one job. */
function asked<J extends object, R>(child: ChildProcess, job: J): Promise<R> {
  return new Promise((resolve, reject) => {
    const gone = (code: number | null): void => reject(new Error(`a worker ended early (exit ${code})`));
    child.once('exit', gone);
    child.once('message', (reply: Reply<R>) => {
      child.off('exit', gone);
      if ('result' in reply) resolve(reply.result);
      else reject(new Error(reply.error));
    });
    child.send(job);
  });
}

/** Answer jobs until the parent is done. @param close frees what jobs shared */
export function serveJobs<J, R>(run: (job: J) => Promise<R>, close: () => Promise<void>): void {
  process.on('message', async (job: J) => {
    const reply: Reply<R> = await run(job).then(
      (result) => ({ result }),
      (error: Error) => ({ error: error.stack ?? error.message }),
    );
    process.send!(reply);
  });
  process.on('disconnect', async () => {
    await close();
    process.exit();
  });
}
