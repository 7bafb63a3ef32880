/** Random numbers of a run that can be resumed at any step: nothing of them has to be kept. */
import { TorchGenerator } from './random.ts';

/** A generator of its own for each purpose and number, e.g. for each step. */
export function numberedGenerator(seed: number, purpose: number, number: number): TorchGenerator {
  // Odd multipliers keep neighbouring numbers and purposes apart.
  const mixed = BigInt(seed) * 0x9e3779b97f4a7c15n + BigInt(purpose) * 0xd1b54a32d192ed03n + BigInt(number);
  return new TorchGenerator(BigInt.asUintN(63, mixed * 0xbf58476d1ce4e5b9n));
}
