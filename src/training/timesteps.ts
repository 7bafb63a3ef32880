/** Which timesteps the rows of a batch are noised to. */
import type { TorchGenerator } from '../tensor/random.ts';

/**
 * One timestep per row, each as likely as any other.
 * `stratified` takes one from each of as many equal parts of the range as there are rows, in random order: no batch lies at
 * one end, and the gradient varies less between batches. With one row both are the same distribution.
 * Source: low-discrepancy sampling, Variational Diffusion Models (2107.00630), appendix I.1.
 * @param count timesteps there are
 */
export function drawTimesteps(
  how: 'uniform' | 'stratified',
  rows: number,
  count: number,
  random: TorchGenerator,
): number[] {
  if (how === 'uniform') return random.randint(0, count, rows);
  const places = random.rand(rows);
  return random.randperm(rows).map((part, i) => Math.floor(((part + places[i]!) / rows) * count));
}
