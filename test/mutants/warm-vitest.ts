/**
 * One vitest that stays, over tests that are compiled: Node loads them itself, and nobody waits for a module.
 * A process of its own, told over its channel, so that a test that never ends can be ended with it.
 *
 *     fork('warm-vitest.js', { cwd: <checkout> }), then send(['test/a.test.ts', …])
 */
import path from 'node:path';
import { createVitest, type TestModule, type TestSpecification, type Vitest } from 'vitest/node';

export interface Answer {
  readonly passed: boolean;
  /** The first test that failed, or the file that could not be loaded. */
  readonly by: string | null;
  /** It failed by the clock, which a busy machine may do as well. */
  readonly late: boolean;
  /** Seconds that each file took that passed. */
  readonly seconds: Readonly<Record<string, number>>;
}

/** The machine may be busy. */
const PATIENCE_MS = 300_000;

const root = process.cwd();
const compiled = (test: string): string => path.join(root, test.replace(/\.ts$/, '.js'));
const sourceOf = (module: TestModule): string => path.relative(root, module.moduleId).replace(/\.js$/, '.ts');

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

async function answer(vitest: Vitest, tests: readonly string[]): Promise<Answer> {
  const project = vitest.projects[0]!;
  ended = [];
  const { unhandledErrors } = await vitest.runTestSpecifications(
    tests.map((test) => project.createSpecification(compiled(test))),
    false,
  );
  const seconds: Record<string, number> = {};
  let by: string | null = null;
  let late = false;
  for (const module of ended) {
    const file = sourceOf(module);
    const { collectDuration, duration, setupDuration } = module.diagnostic();
    // What comes behind a failure is skipped, which looks like a pass.
    if (by !== null) break;
    if (module.ok()) {
      seconds[file] = (collectDuration + duration + setupDuration) / 1000;
      continue;
    }
    const [first] = [...module.children.allTests('failed')];
    const errors = [...(first?.result().errors ?? []), ...module.errors()];
    late = errors.some(({ message }) => /timed out in \d+ms/.test(message));
    by = first === undefined ? file : `${file} > ${first.fullName}`;
  }
  if (by === null && unhandledErrors.length > 0) by = 'an error that no test waits for';
  return { passed: by === null, by, late, seconds };
}

const vitest = await createVitest('test', {
  root,
  config: false,
  watch: false,
  include: ['test/**/*.test.js'],
  globalSetup: ['test/support/cache-folder.js'],
  setupFiles: ['test/support/close.js'],
  experimental: { viteModuleRunner: false, nodeLoader: false },
  bail: 1,
  // All files of one question share a process and what it has loaded; the next question gets another one.
  isolate: false,
  maxWorkers: 1,
  testTimeout: PATIENCE_MS,
  hookTimeout: PATIENCE_MS,
  reporters: [{ onTestModuleEnd: end }],
  sequence: { sequencer: AsGiven },
});
await vitest.standalone();
process.on('message', (tests: readonly string[]) => {
  answer(vitest, tests).then(
    (found) => process.send!(found),
    (error: Error) => {
      console.error(error);
      process.exit(1);
    },
  );
});
process.send!('ready');
