/** A copy of the working tree to plant faults in, with a vitest that stays in it. */
import { type ChildProcess, execFileSync, fork } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { cpuSeconds } from './cpu-time.ts';
import type { Answer, Question } from './warm-vitest.ts';

const WARM = path.join(import.meta.dirname, 'warm-vitest.js');

const LOOK_EVERY_MS = 2000;

export class Checkout {
  readonly folder: string;
  /** Everything that git knows or would take, from the root. */
  readonly files: readonly string[];
  #warm: Promise<ChildProcess> | null = null;
  #process: ChildProcess | null = null;
  readonly #words: readonly string[];

  /**
   * @param root of a git checkout with its node_modules; files that git ignores are left out
   * @param words for its vitest
   */
  constructor(root: string, words: readonly string[] = []) {
    this.#words = words;
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
  }

  /**
   * Ask tests.
   * @param seconds of work there may be between the end of one file and that of the next
   * @returns null if there were more
   */
  async ask(question: Question, seconds: number): Promise<Answer | null> {
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
      child.send(question);
    });
  }

  #start(): Promise<ChildProcess> {
    const child = fork(WARM, this.#words, {
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
