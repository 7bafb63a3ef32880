/** What each test file took when it was last run, kept from run to run, so that quick ones are asked first. */
import { readFileSync, writeFileSync } from 'node:fs';

/** For files that were never run. */
const GUESS = 3;

export class TestTimes {
  readonly #file: string;
  readonly #seconds: Map<string, number>;

  constructor(file: string) {
    this.#file = file;
    this.#seconds = new Map(Object.entries(read(file)));
  }

  of(test: string): number {
    return this.#seconds.get(test) ?? GUESS;
  }

  /** Runs that a fault ended early say too little: the longest counts. */
  learn(seconds: Readonly<Record<string, number>>): void {
    for (const [test, own] of Object.entries(seconds)) {
      this.#seconds.set(test, Math.max(own, this.#seconds.get(test) ?? 0));
    }
  }

  save(): void {
    writeFileSync(this.#file, JSON.stringify(Object.fromEntries(this.#seconds), null, 1));
  }
}

function read(file: string): Record<string, number> {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Record<string, number>;
  } catch {
    return {};
  }
}
