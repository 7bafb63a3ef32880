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

  /** @param seconds of tests that passed. A busy machine makes them longer: the shortest counts. */
  learn(seconds: Readonly<Record<string, number>>): void {
    for (const [test, own] of Object.entries(seconds)) {
      this.#seconds.set(test, Math.min(own, this.#seconds.get(test) ?? own));
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
