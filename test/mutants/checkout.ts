/** A copy of the working tree to plant faults in, and the tests that may notice them. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

export interface Outcome {
  readonly result: 'passed' | 'failed' | 'out of time' | 'no tests';
  /** The first test that failed. */
  readonly by: string | null;
}

export class Checkout {
  readonly folder: string;
  readonly #tests: readonly string[];
  #running: ChildProcess | null = null;

  /** @param root of a git checkout with its node_modules; files that git ignores are left out */
  constructor(root: string) {
    this.folder = mkdtempSync(path.join(tmpdir(), 'edlora-mutants-'));
    const listed = execFileSync('git', ['ls-files', '-z', '-co', '--exclude-standard'], { cwd: root });
    const files = listed
      .toString()
      .split('\0')
      .filter((name) => name !== '' && name !== 'node_modules');
    for (const name of files) {
      mkdirSync(path.dirname(path.join(this.folder, name)), { recursive: true });
      copyFileSync(path.join(root, name), path.join(this.folder, name));
    }
    symlinkSync(realpathSync(path.join(root, 'node_modules')), path.join(this.folder, 'node_modules'), 'dir');
    this.#tests = files.filter((name) => name.endsWith('.test.ts'));
  }

  /** Test files that import a source themselves. */
  nearest(source: string): string[] {
    return this.#tests.filter((test) => {
      const text = readFileSync(path.join(this.folder, test), 'utf8');
      return [...text.matchAll(/from '(\.[^']+)'/g)].some(
        ([, target]) => path.join(path.dirname(test), target!) === path.normalize(source),
      );
    });
  }

  /** Run given test files; `null`: all that import the source, however far. Stops at the first failure. */
  run(source: string, tests: readonly string[] | null, seconds: number): Promise<Outcome> {
    const which = tests === null ? ['related', source, '--run'] : ['run', ...tests];
    const vitest = path.join(this.folder, 'node_modules/vitest/vitest.mjs');
    const child = spawn(
      process.execPath,
      [vitest, ...which, '--bail', '1', '--reporter', 'default', '--passWithNoTests'],
      {
        cwd: this.folder,
        detached: true,
        env: { ...process.env, NO_COLOR: '1', CI: '1' },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    this.#running = child;
    let output = '';
    const keep = (chunk: Buffer): void => {
      output += chunk;
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#stop();
    }, 1000 * seconds);
    return new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code) => {
        clearTimeout(timer);
        this.#running = null;
        const by = /FAIL {2}?(.*)/.exec(output)?.[1]?.trim() ?? null;
        if (late) resolve({ result: 'out of time', by: null });
        else if (code !== 0) resolve({ result: 'failed', by });
        else resolve({ result: output.includes('No test files found') ? 'no tests' : 'passed', by: null });
      });
    });
  }

  /** Its workers are of the same group. */
  #stop(): void {
    if (this.#running?.pid !== undefined) process.kill(-this.#running.pid, 'SIGKILL');
  }

  /** Ends a run under way, too. */
  remove(): void {
    this.#stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
