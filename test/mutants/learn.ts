/** Runs every test file whose lines are not known, and keeps which lines of the sources it enters. */
import { Checkout } from './checkout.ts';
import type { Entered } from './entered.ts';
import type { TestTimes } from './test-times.ts';

/** Files per question: what was learned so far is kept if the run is broken off. */
const AT_ONCE = 6;

/**
 * @param root of a git checkout
 * @param wanted test files
 */
export async function learnEntered(
  root: string,
  wanted: readonly string[],
  entered: Entered,
  times: TestTimes,
): Promise<void> {
  const tests = wanted.filter((test) => !entered.isKnown(test));
  if (tests.length === 0) return;
  const checkout = new Checkout(root, ['entered']);
  process.on('exit', () => checkout.remove());
  for (let i = 0; i < tests.length; i += AT_ONCE) {
    const asked = tests.slice(i, i + AT_ONCE);
    const answer = await checkout.ask({ changed: [], tests: asked }, 600);
    for (const test of asked) {
      const lines = answer?.entered[test];
      if (lines === undefined) console.error(`${test} does not pass, and is not asked`);
      else entered.learn(test, lines);
    }
    times.learn(answer?.seconds ?? {});
    entered.save();
    times.save();
    console.error(`lines entered by ${Math.min(i + AT_ONCE, tests.length)} of ${tests.length} test files`);
  }
  checkout.remove();
}
