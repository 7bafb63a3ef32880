/**
 * Whether weights are mapped from the users' files or read into memory. Mapped, a model takes no memory of its own and
 * loads at once; but a file that shrinks while a network runs ends the process, since its pages are gone.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

const inMemory = new AsyncLocalStorage<boolean>();

/** For graphs that are loaded now. Default: mapped, unless EDLORA_NO_MMAP is set to anything but 0. */
export function weightsAreMapped(env: NodeJS.ProcessEnv = process.env): boolean {
  const unwanted = env.EDLORA_NO_MMAP ?? '';
  return !(inMemory.getStore() ?? (unwanted !== '' && unwanted !== '0'));
}

/** Run a job in which every weight is read into memory before a network runs: results are the same bytes. */
export function withWeightsInMemory<T>(job: () => T): T {
  return inMemory.run(true, job);
}
