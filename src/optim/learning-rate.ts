/** Learning rates over a run. */

/** The share of the run's learning rate at a step, in [0, 1]. */
export type RateSchedule = 'linear' | 'constant' | 'cosine';
export const RATE_SCHEDULES: readonly RateSchedule[] = ['linear', 'constant', 'cosine'];

/** Falls in a line from `rate` at step 0 to zero after the last. Source: diffusers, optimization.py, linear schedule. */
export function linearRate(rate: number, step: number, steps: number): number {
  return rate * Math.max(0, 1 - step / steps);
}

/**
 * @param step   steps already taken
 * @param steps  steps of the whole run
 * @param warmup steps over which the rate first rises from zero in a line; 0 for none
 */
export function learningRate(
  schedule: RateSchedule,
  rate: number,
  step: number,
  steps: number,
  warmup = 0,
): number {
  if (step < warmup) return (rate * step) / warmup;
  const [done, length] = [step - warmup, steps - warmup];
  switch (schedule) {
    case 'constant':
      return rate;
    case 'linear':
      return linearRate(rate, done, length);
    case 'cosine':
      return (rate * (1 + Math.cos((Math.PI * done) / length))) / 2;
  }
}
