/**
 * One vitest that stays: what it has transformed is kept from fault to fault, and only the file that changed is read again.
 * A process of its own, told over its channel, so that a test that never ends can be ended with it.
 *
 *     fork('warm-vitest.js', { cwd: <checkout> }), then send({ changed, tests })
 *
 * With the word `entered` it says which lines of src and cli each file ran, too, which makes it slower.
 */
import path from 'node:path';
import { createVitest, type TestModule, type TestSpecification, type Vitest } from 'vitest/node';
import { type EnteredLines, type MadeCode, type Origins, originsOf, takeEntered } from './entered-lines.ts';

export interface Question {
  /** Sources that are not as they were at the last question. */
  readonly changed: readonly string[];
  /** Test files, in the order in which they are asked; the first failure ends it. */
  readonly tests: readonly string[];
}

export interface Answer {
  readonly passed: boolean;
  /** The first test that failed, or the file that could not be loaded. */
  readonly by: string | null;
  /** It failed by the clock, which a busy machine may do as well. */
  readonly late: boolean;
  /** Seconds that each file took that passed. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Lines that each file ran that passed. */
  readonly entered: Readonly<Record<string, EnteredLines>>;
}

/** The machine may be busy. */
const PATIENCE_MS = 300_000;

const root = process.cwd();
const sayEntered = process.argv[2] === 'entered';

/** Files are run in the order in which they are given. */
class AsGiven {
  sort(files: TestSpecification[]): TestSpecification[] {
    return files;
  }
  shard(files: TestSpecification[]): TestSpecification[] {
    return files;
  }
}

/** Modules that ended since the last question: what vitest keeps of earlier runs is not asked. */
let ended: TestModule[] = [];

function end(module: TestModule): void {
  ended.push(module);
  process.send!('a file has ended');
}

async function answer(vitest: Vitest, { changed, tests }: Question): Promise<Answer> {
  for (const file of changed) vitest.invalidateFile(path.join(root, file));
  const specifications = tests.flatMap((test) => {
    const file = path.join(root, test);
    const project = vitest.projects.find((one) => one.matchesTestGlob(file));
    return project === undefined ? [] : [project.createSpecification(file)];
  });
  ended = [];
  const { unhandledErrors } = await vitest.runTestSpecifications(specifications, false);
  const seconds: Record<string, number> = {};
  const entered: Record<string, EnteredLines> = {};
  let by: string | null = null;
  let late = false;
  for (const module of ended) {
    const file = path.relative(root, module.moduleId);
    const { collectDuration, duration, setupDuration } = module.diagnostic();
    if (module.ok()) seconds[file] = (collectDuration + duration + setupDuration) / 1000;
    if (sayEntered && module.ok()) {
      const lines = await takeEntered(file, (source) => origins(vitest, source));
      if (lines !== null) entered[file] = lines;
    }
    if (module.ok() || by !== null) continue;
    const [first] = [...module.children.allTests('failed')];
    const errors = [...(first?.result().errors ?? []), ...module.errors()];
    late = errors.some(({ message }) => /timed out in \d+ms/.test(message));
    by = first === undefined ? file : `${file} > ${first.fullName}`;
  }
  if (by === null && unhandledErrors.length > 0) by = 'an error that no test waits for';
  return { passed: by === null, by, late, seconds, entered };
}

const known = new Map<string, Promise<Origins>>();

function origins(vitest: Vitest, file: string): Promise<Origins> {
  const found = known.get(file) ?? made(vitest, file).then(originsOf);
  known.set(file, found);
  return found;
}

async function made(vitest: Vitest, file: string): Promise<MadeCode> {
  const { ssr } = vitest.projects[0]!.vite.environments;
  const { code, map } = (await ssr!.transformRequest(path.join(root, file)))!;
  return { code, map: map as MadeCode['map'] };
}

const vitest = await createVitest('test', {
  root,
  watch: false,
  bail: sayEntered ? 0 : 1,
  // Beside a test that notices another one would run for nothing.
  maxWorkers: 1,
  reporters: [{ onTestModuleEnd: end }],
  sequence: { sequencer: AsGiven },
});
for (const { config } of vitest.projects) {
  // Of one question all files share a process and what it has loaded; the next question gets another one.
  if (sayEntered) config.isolate = true;
  config.testTimeout = config.hookTimeout = PATIENCE_MS;
  if (sayEntered) config.setupFiles.push(path.join(root, 'test/mutants/entered-setup.ts'));
}
await vitest.standalone();
process.on('message', (question: Question) => {
  answer(vitest, question).then(
    (found) => process.send!(found),
    (error: Error) => {
      console.error(error);
      process.exit(1);
    },
  );
});
process.send!('ready');
