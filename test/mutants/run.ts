/**
 * Plants small faults in src, one at a time, in a copy of the working tree, and asks the tests that reach the faulty file by
 * imports: those that import it, those behind one file, then all others, each time the quick ones first, up to a bound of
 * time. Faults that none of them notices are listed: each is a test that is missing, or a change that changes nothing.
 *
 *     npm run test:mutants -- --room linalg --room merging --sample 12 --seed 1
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { Checkout } from './checkout.ts';
import { ImportGraph } from './imports.ts';
import { type Mutation, mutationsOf, planted } from './mutations.ts';
import { TestTimes } from './test-times.ts';
import type { Answer } from './warm-vitest.ts';

const root = packageRoot();

const { values: options } = parseArgs({
  options: {
    /** Folders of src. Default: where a wrong number does the most harm. */
    room: {
      type: 'string',
      multiple: true,
      default: ['formats', 'linalg', 'adapters', 'fusion', 'merging', 'sampling', 'training'],
    },
    /** Files or folders instead of rooms. */
    only: { type: 'string', multiple: true },
    /** Faults per room. */
    sample: { type: 'string', default: '12' },
    seed: { type: 'string', default: '0' },
    /** Of tests per fault, by what they took before. */
    seconds: { type: 'string', default: '60' },
    json: { type: 'boolean', default: false },
  },
});
const places = options.only ?? options.room.map((room) => path.join('src', room));

interface Mutant extends Mutation {
  readonly place: string;
  readonly file: string;
}
interface Judged extends Mutant {
  readonly killed: boolean;
  /** Who noticed: a test, or whoever waits for one that does not end. */
  readonly by: string | null;
  /** Tests asked, of those that reach the file. */
  readonly asked: number;
  readonly reaching: number;
}

const checkout = new Checkout(root);
process.on('exit', () => checkout.remove());
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1));
const graph = new ImportGraph(
  checkout.folder,
  checkout.files.filter((name) => /^(src|cli|test)\/.*\.ts$/.test(name)),
);
const times = new TestTimes(path.join(root, '.build', 'test-seconds.json'));
/** Tests that pass without a fault, and those that do not: these are asked no more. */
const green = new Set<string>();
const red = new Set<string>();
/** Files that vitest must read again. */
let changed: string[] = [];

await main();

function described({ file, line, operator, from, to }: Mutant): string {
  const short = (text: string): string => JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}…` : text);
  return `${file}:${line} ${operator}: ${short(from)} → ${short(to)}`;
}

/** So many faults of a file or a folder, each as likely as any other; those of one file together. */
function sample(place: string, count: number, seed: bigint): Mutant[] {
  const files = place.endsWith('.ts')
    ? [place]
    : readdirSync(path.join(root, place), { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.ts'))
        .map((name) => path.join(place, name));
  const all = files.toSorted().flatMap((file) =>
    mutationsOf(readFileSync(path.join(root, file), 'utf8')).map((mutation) => ({
      place,
      file,
      ...mutation,
    })),
  );
  const chosen = new TorchGenerator(seed).randperm(all.length).slice(0, count);
  return [...chosen].sort((a, b) => a - b).map((i) => all[i]!);
}

/** Nearer tests first, and quick ones among them, as many as the bound allows; one in any case. */
function testsFor(file: string): { tests: string[]; seconds: number; reaching: number } {
  const reaching = [...graph.testsOf(file)]
    .filter(([test]) => !red.has(test))
    .map(([test, distance]) => ({ test, distance: Math.min(distance, 3), seconds: times.of(test) }))
    .sort((a, b) => a.distance - b.distance || a.seconds - b.seconds);
  const tests: string[] = [];
  let seconds = 0;
  for (const { test, seconds: own } of reaching) {
    if (tests.length > 0 && seconds + own > Number(options.seconds)) continue;
    tests.push(test);
    seconds += own;
  }
  return { tests, seconds, reaching: reaching.length };
}

async function ask(tests: readonly string[], seconds: number): Promise<Answer | null> {
  // Other work on the machine may take most of it.
  const answer = await checkout.ask({ changed, tests }, 60 + 5 * seconds);
  changed = [];
  if (answer !== null) times.learn(answer.seconds);
  return answer;
}

async function judge(mutant: Mutant): Promise<Judged> {
  const { file } = mutant;
  const { tests, seconds, reaching } = testsFor(file);
  if (tests.length === 0) return { ...mutant, killed: false, by: null, asked: 0, reaching };
  const target = path.join(checkout.folder, file);
  const source = readFileSync(target, 'utf8');
  writeFileSync(target, planted(source, mutant));
  changed.push(file);
  const answer = await ask(tests, seconds).finally(() => {
    writeFileSync(target, source);
    changed.push(file);
  });
  const by = answer === null ? 'whoever waits: it does not end' : answer.by;
  if (by !== null && !(await isGreen(by))) return judge(mutant);
  return { ...mutant, killed: by !== null, by, asked: tests.length, reaching };
}

/** Whether the test passes without a fault: otherwise every fault would seem to be noticed. */
async function isGreen(by: string): Promise<boolean> {
  const test = by.split(' > ')[0]!;
  if (!test.endsWith('.test.ts') || green.has(test)) return true;
  const answer = await ask([test], times.of(test));
  if (answer?.passed === true) {
    green.add(test);
    return true;
  }
  console.error(`${test} fails without any fault, and is not asked: ${answer?.by ?? 'it does not end'}`);
  red.add(test);
  return false;
}

async function main(): Promise<void> {
  if (!existsSync(path.join(root, '.build'))) mkdirSync(path.join(root, '.build'));
  const faults = places.flatMap((place) => sample(place, Number(options.sample), BigInt(options.seed)));
  const judged: Judged[] = [];
  for (const [i, mutant] of faults.entries()) {
    const outcome = await judge(mutant);
    judged.push(outcome);
    const word = outcome.killed
      ? `killed by ${outcome.by}`
      : `SURVIVED ${outcome.asked}/${outcome.reaching} tests`;
    console.error(`${i + 1}/${faults.length} ${described(outcome)}: ${word}`);
    times.save();
  }
  if (options.json) console.log(JSON.stringify({ seed: options.seed, judged }, null, 1));
  else report(judged);
  process.exit();
}

function report(judged: readonly Judged[]): void {
  for (const place of places) {
    const own = judged.filter((one) => one.place === place);
    const survivors = own.filter(({ killed }) => !killed);
    const killed = own.length - survivors.length;
    console.log(`${place}: ${killed} of ${own.length} faults were noticed`);
    for (const one of survivors)
      console.log(`  ${described(one)} (${one.asked} of ${one.reaching} tests asked)`);
  }
}
