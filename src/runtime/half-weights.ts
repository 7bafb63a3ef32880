/**
 * Where weights of half width become float32. Once, when a network is loaded: fastest, and the whole network is held in twice
 * the size of its file. Or in every run, each weight just before it is used: they stay as they lie in the file, mapped or in
 * memory, for a few per cent of time. Results are the same up to rounding: products of weights that were laid out anew for
 * speed are summed in another order.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

const inRuns = new AsyncLocalStorage<boolean>();

/** For graphs that are loaded now. Default: not, unless EDLORA_LEAN is set to anything but 0. */
export function halvesAreWidenedInRuns(env: NodeJS.ProcessEnv = process.env): boolean {
  const wanted = env.EDLORA_LEAN ?? '';
  return inRuns.getStore() ?? (wanted !== '' && wanted !== '0');
}

/** Run a job in which weights of half width stay half: half of the memory, a little slower, results up to rounding. */
export function withLeanWeights<T>(job: () => T): T {
  return inRuns.run(true, job);
}
