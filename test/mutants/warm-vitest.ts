/**
 * One vitest that stays: what it has transformed is kept from fault to fault, and only the file that changed is read again.
 * A process of its own, told over its channel, so that a test that never ends can be ended with it.
 *
 *     fork('warm-vitest.js', { cwd: <checkout> }), then send({ changed, tests })
 */
import path from 'node:path';
import { createVitest, type TestModule, type TestSpecification, type Vitest } from 'vitest/node';

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
  /** Seconds that each file took that was run. */
  readonly seconds: Readonly<Record<string, number>>;
}

const root = process.cwd();

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
  let by: string | null = null;
  for (const module of ended) {
    const file = path.relative(root, module.moduleId);
    const { collectDuration, duration, setupDuration } = module.diagnostic();
    seconds[file] = (collectDuration + duration + setupDuration) / 1000;
    if (module.ok() || by !== null) continue;
    const [first] = [...module.children.allTests('failed')];
    by = first === undefined ? file : `${file} > ${first.fullName}`;
  }
  if (by === null && unhandledErrors.length > 0) by = 'an error that no test waits for';
  return { passed: by === null, by, seconds };
}

const vitest = await createVitest('test', {
  root,
  watch: false,
  bail: 1,
  reporters: [{ onTestModuleEnd: (module) => void ended.push(module) }],
  sequence: { sequencer: AsGiven },
});
// A process that has loaded a source would go on with it as it was.
for (const { config } of vitest.projects) config.isolate = true;
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
