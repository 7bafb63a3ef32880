/**
 * Plants small faults in src, one at a time, in a copy of the working tree, and runs the tests that import the faulty file,
 * however far, the nearest first. Faults that no test notices are listed: each is a test that is missing, or a change that changes nothing.
 *
 *     npm run test:mutants -- --only src/linalg --count 20 --seed 1
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { Checkout, type Outcome } from './checkout.ts';
import { type Mutation, mutationsOf, planted } from './mutations.ts';

const root = packageRoot();
/** Where a wrong number does the most harm. */
const FOLDERS = ['formats', 'linalg', 'adapters', 'concepts', 'fusion', 'merging', 'sampling', 'training']
  .map((name) => path.join('src', name))
  .filter((folder) => existsSync(path.join(root, folder)));

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    count: { type: 'string', default: '100' },
    seed: { type: 'string', default: '0' },
    seconds: { type: 'string', default: '900' },
    /** Ask only the tests that import the file themselves: minutes instead of hours, and survivors that others notice. */
    near: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});

interface Mutant extends Mutation {
  readonly file: string;
}
interface Judged extends Mutant {
  readonly killed: boolean;
  readonly result: Outcome['result'];
  readonly by: string | null;
}

const checkout = new Checkout(root);
process.on('exit', () => checkout.remove());
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1));

const green = new Map<string, Promise<Outcome>>();
await main();

function described({ file, line, operator, from, to }: Mutant): string {
  const short = (text: string): string => JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}…` : text);
  return `${file}:${line} ${operator}: ${short(from)} → ${short(to)}`;
}

/** Of files, or of all files of folders. */
function mutants(places: readonly string[]): Mutant[] {
  const files = places.flatMap((place) => {
    if (place.endsWith('.ts')) return [place];
    return readdirSync(path.join(root, place), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => path.join(place, name));
  });
  return files
    .toSorted()
    .flatMap((file) =>
      mutationsOf(readFileSync(path.join(root, file), 'utf8')).map((mutation) => ({ file, ...mutation })),
    );
}

/** So many of them, each as likely as any other; those of one file together, as their tests are tried once. */
function sample(all: readonly Mutant[], count: number, seed: bigint): Mutant[] {
  const chosen = new TorchGenerator(seed).randperm(all.length).slice(0, count);
  return [...chosen].sort((a, b) => a - b).map((i) => all[i]!);
}

/** The tests that import the file themselves are quick to notice; all others come after. */
async function judge(mutant: Mutant): Promise<Judged> {
  const { file } = mutant;
  const target = path.join(checkout.folder, file);
  const source = readFileSync(target, 'utf8');
  const nearest = checkout.nearest(file);
  const rounds = [...(nearest.length === 0 ? [] : [nearest]), ...(options.near ? [] : [null])];
  let result: Outcome['result'] = 'no tests';
  for (const tests of rounds) {
    writeFileSync(target, planted(source, mutant));
    const outcome = await checkout
      .run(file, tests, Number(options.seconds))
      .finally(() => writeFileSync(target, source));
    result = outcome.result;
    // Faults that make a loop endless are noticed by whoever waits.
    if (result === 'out of time') return { ...mutant, killed: true, result, by: null };
    if (result !== 'failed') continue;
    await expectGreen(outcome.by);
    return { ...mutant, killed: true, result, by: outcome.by };
  }
  return { ...mutant, killed: false, result, by: null };
}

/** Without a fault the test passes: otherwise every fault would seem to be noticed. */
async function expectGreen(by: string | null): Promise<void> {
  const test = by?.split(/\s/)[0];
  if (test === undefined || !test.endsWith('.test.ts')) return;
  const known = green.get(test) ?? checkout.run(test, [test], Number(options.seconds));
  green.set(test, known);
  const { result, by: broken } = await known;
  if (result === 'failed' || result === 'out of time') {
    throw new Error(
      `${test} ${result} without any fault${broken === null ? '' : `: ${broken}`}; see to that first`,
    );
  }
}

async function main(): Promise<void> {
  const faults = sample(mutants(options.only ?? FOLDERS), Number(options.count), BigInt(options.seed));
  const judged: Judged[] = [];
  for (const [i, mutant] of faults.entries()) {
    const outcome = await judge(mutant);
    judged.push(outcome);
    const word = outcome.killed ? 'killed' : 'SURVIVED';
    const by = outcome.by === null ? '' : ` by ${outcome.by}`;
    console.error(`${i + 1}/${faults.length} ${word} ${described(outcome)}${by}`);
  }
  const survivors = judged.filter(({ killed }) => !killed);
  const killed = judged.length - survivors.length;
  if (options.json) {
    console.log(
      JSON.stringify({ seed: options.seed, count: judged.length, killed, survivors, judged }, null, 1),
    );
    return;
  }
  const share = ((100 * killed) / judged.length).toFixed(0);
  console.log(`${killed} of ${judged.length} faults were noticed (${share} %)`);
  for (const survivor of survivors) console.log(described(survivor));
}
