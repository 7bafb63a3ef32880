/** A copy of the working tree, compiled, to plant faults in, with a vitest that stays in it. */
import { type ChildProcess, execFileSync, fork } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { transformSync } from 'rolldown/utils';
import { cpuSeconds } from './cpu-time.ts';
import type { Answer } from './warm-vitest.ts';

const WARM = path.join(import.meta.dirname, 'warm-vitest.js');
const LOOK_EVERY_MS = 2000;

export class Checkout {
  readonly folder: string;
  /** Everything that git knows or would take, from the root. */
  readonly files: readonly string[];
  #warm: Promise<ChildProcess> | null = null;
  #process: ChildProcess | null = null;

  /** @param root of a git checkout with its node_modules; files that git ignores are left out */
  constructor(root: string) {
    this.folder = mkdtempSync(path.join(tmpdir(), 'edlora-mutants-'));
    const listed = execFileSync('git', ['ls-files', '-z', '-co', '--exclude-standard'], { cwd: root });
    this.files = listed
      .toString()
      .split('\0')
      .filter((name) => name !== '' && name !== 'node_modules');
    for (const name of this.files) {
      mkdirSync(path.dirname(path.join(this.folder, name)), { recursive: true });
      copyFileSync(path.join(root, name), path.join(this.folder, name));
    }
    symlinkSync(realpathSync(path.join(root, 'node_modules')), path.join(this.folder, 'node_modules'), 'dir');
    for (const name of this.files) {
      if (/^(src|cli|test)\/.*\.ts$/.test(name))
        this.plant(name, readFileSync(path.join(root, name), 'utf8'));
    }
  }

  /** Let a source be this from the next question on. */
  plant(file: string, source: string): void {
    const { code, errors } = transformSync(file, source, {
      typescript: { rewriteImportExtensions: 'rewrite' },
    });
    if (errors.length > 0) throw new Error(`${file}: ${errors[0]!.message}`);
    writeFileSync(path.join(this.folder, file.replace(/\.ts$/, '.js')), code);
  }

  /**
   * Ask tests.
   * @param tests their sources, in the order in which they are asked; the first failure ends it
   * @param seconds of work there may be between the end of one file and that of the next
   * @returns null if there were more
   */
  async ask(tests: readonly string[], seconds: number): Promise<Answer | null> {
    this.#warm ??= this.#start();
    const child = await this.#warm;
    return new Promise((resolve, reject) => {
      const done = (settle: () => void): void => {
        clearInterval(watch);
        child.removeAllListeners();
        settle();
      };
      let worked = cpuSeconds(child.pid!);
      const watch = setInterval(() => {
        if (cpuSeconds(child.pid!) - worked <= seconds) return;
        this.#stop();
        done(() => resolve(null));
      }, LOOK_EVERY_MS);
      child.on('message', (answer: Answer | string) => {
        if (typeof answer === 'string') worked = cpuSeconds(child.pid!);
        else done(() => resolve(answer));
      });
      child.once('exit', (code) => {
        this.#warm = null;
        done(() => reject(new Error(`vitest ended with ${code}`)));
      });
      child.send(tests);
    });
  }

  #start(): Promise<ChildProcess> {
    const child = fork(WARM, {
      cwd: this.folder,
      detached: true,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#process = child;
    return new Promise((resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`vitest ended with ${code}`)));
      child.once('message', () => {
        child.removeAllListeners();
        resolve(child);
      });
    });
  }

  /** Its workers are of the same group. */
  #stop(): void {
    this.#warm = null;
    if (this.#process?.pid === undefined || this.#process.exitCode !== null) return;
    try {
      process.kill(-this.#process.pid, 'SIGKILL');
    } catch {
      // It is gone already.
    }
  }

  /** Ends what is under way, too. */
  remove(): void {
    this.#stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
