/**
 * Plants small faults in src, one at a time, in a compiled copy of the working tree, and asks the tests that reach the faulty
 * file by imports: near and quick ones first, up to a bound of time. Faults that none of them notices are listed: each is
 * a test that is missing, or a change that changes nothing.
 *
 *     npm run test:mutants -- --room linalg --room merging --sample 12 --seed 1
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
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
    seconds: { type: 'string', default: '120' },
    json: { type: 'boolean', default: false },
  },
});
const places = options.only ?? options.room.map((room) => path.join('src', room));

interface Mutant extends Mutation {
  readonly place: string;
  readonly file: string;
}
interface Judged extends Mutant {
  /** Undecided: its tests did not end in time, and without the fault they do not either. */
  readonly outcome: 'noticed' | 'survived' | 'undecided';
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
/** They replace modules, which Node's own loader cannot. */
const APART = new Set(
  checkout.files.filter(
    (name) =>
      name.endsWith('.test.ts') &&
      /\bvi\.(do)?[mM]ock\(/.test(readFileSync(path.join(checkout.folder, name), 'utf8')),
  ),
);
const times = new TestTimes(path.join(root, '.build', 'test-seconds.json'));
/** Tests that passed, with a fault or without one, and those that do not without one: these are asked no more. */
const green = new Set<string>();
const red = new Set<string>();

await main();

function described({ file, line, operator, from, to }: Mutant): string {
  const short = (text: string): string => JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}…` : text);
  return `${file}:${line} ${operator}: ${short(from)} → ${short(to)}`;
}

/** So many faults of a file or a folder, each as likely as any other; those of one file together. */
function sample(place: string, count: number, seed: bigint): Mutant[] {
  const files = place.endsWith('.ts')
    ? [place]
    : readdirSync(path.join(checkout.folder, place), { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
        .map((name) => path.join(place, name));
  const all = files.toSorted().flatMap((file) =>
    mutationsOf(readFileSync(path.join(checkout.folder, file), 'utf8')).map((mutation) => ({
      place,
      file,
      ...mutation,
    })),
  );
  const chosen = new TorchGenerator(seed).randperm(all.length).slice(0, count);
  return [...chosen].sort((a, b) => a - b).map((i) => all[i]!);
}

/** Near and quick tests first, as many as the bound allows; one in any case. */
function testsFor({ file }: Mutant): { tests: string[]; reaching: number } {
  const reaching = [...graph.testsOf(file)]
    .filter(([test]) => !red.has(test) && !APART.has(test))
    .map(([test, distance]) => ({ test, distance: Math.min(distance, 3), seconds: times.of(test) }))
    .sort((a, b) => a.distance * a.seconds - b.distance * b.seconds);
  const tests: string[] = [];
  let seconds = 0;
  for (const { test, seconds: own } of reaching) {
    if (tests.length > 0 && seconds + own > Number(options.seconds)) continue;
    tests.push(test);
    seconds += own;
  }
  return { tests, reaching: reaching.length };
}

/** Ask a group after the other: a fault that never ends is mostly met by the first one, which is short. */
function groupsOf(tests: readonly string[]): string[][] {
  const groups: string[][] = [[]];
  let bound = 5;
  let seconds = 0;
  for (const test of tests) {
    groups.at(-1)!.push(test);
    seconds += times.of(test);
    if (seconds < bound) continue;
    groups.push([]);
    [bound, seconds] = [4 * bound, 0];
  }
  return groups.filter((group) => group.length > 0);
}

async function ask(tests: readonly string[]): Promise<Answer | null> {
  const longest = Math.max(...tests.map((test) => times.of(test)));
  const answer = await checkout.ask(tests, 30 + 5 * longest);
  times.learn(answer?.seconds ?? {});
  for (const test of Object.keys(answer?.seconds ?? {})) green.add(test);
  return answer;
}

async function judge(mutant: Mutant): Promise<Judged> {
  const { file } = mutant;
  const { tests, reaching } = testsFor(mutant);
  const source = readFileSync(path.join(checkout.folder, file), 'utf8');
  for (const group of groupsOf(tests)) {
    checkout.plant(file, planted(source, mutant));
    const answer = await ask(group);
    if (answer?.by === null) continue;
    const test = answer === null ? null : testOf(answer);
    // Behind others in one process a test may fail for what they left there.
    const alone = test === null || test === group[0] ? answer : await ask([test]);
    checkout.plant(file, source);
    if (test !== null && (alone?.by === null || !(await isGreen(test, answer!.late)))) {
      console.error(`${test} fails without the fault, or not alone, and is not asked: ${answer!.by}`);
      red.add(test);
      return judge(mutant);
    }
    // Whether it is the fault that does not end, or the machine that is busy, the same without it says.
    if (test === null && !(await ask(group))?.passed)
      return { ...mutant, outcome: 'undecided', by: null, asked: tests.length, reaching };
    const by = answer?.by ?? 'whoever waits: it does not end';
    return { ...mutant, outcome: 'noticed', by, asked: tests.length, reaching };
  }
  checkout.plant(file, source);
  return { ...mutant, outcome: 'survived', by: null, asked: tests.length, reaching };
}

/** The file of the test that failed; null if something did that no test waits for. */
function testOf({ by }: Answer): string | null {
  const [test] = by!.split(' > ');
  return test!.endsWith('.test.ts') ? test! : null;
}

/** Whether the test passes without a fault: otherwise every fault would seem to be noticed. */
async function isGreen(test: string, late: boolean): Promise<boolean> {
  if (green.has(test) && !late) return true;
  return (await ask([test]))?.passed === true;
}

async function main(): Promise<void> {
  if (!existsSync(path.join(root, '.build'))) mkdirSync(path.join(root, '.build'));
  const faults = places.flatMap((place) => sample(place, Number(options.sample), BigInt(options.seed)));
  const judged: Judged[] = [];
  for (const [i, mutant] of faults.entries()) {
    const one = await judge(mutant);
    judged.push(one);
    const word = one.by === null ? `${one.outcome}, ${one.asked} of ${one.reaching} tests asked` : one.by;
    console.error(`${i + 1}/${faults.length} ${described(one)}: ${word}`);
    times.save();
  }
  if (options.json) console.log(JSON.stringify({ seed: options.seed, judged }, null, 1));
  else report(judged);
  process.exit();
}

function report(judged: readonly Judged[]): void {
  for (const place of places) {
    const own = judged.filter((one) => one.place === place);
    const noticed = own.filter(({ outcome }) => outcome === 'noticed');
    console.log(`${place}: ${noticed.length} of ${own.length} faults were noticed`);
    for (const one of own) {
      if (one.outcome === 'noticed') continue;
      console.log(`  ${described(one)}: ${one.outcome}, ${one.asked} of ${one.reaching} tests asked`);
    }
  }
}
