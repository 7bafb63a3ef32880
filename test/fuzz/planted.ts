/** Targets with faults on purpose: what the tool must see. For its own tests. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { FormatError } from '../../src/errors.ts';
import { expectReadable, type Input, type Target } from './target.ts';
import { seedFile } from './targets/seeds.ts';

function planted(name: string, run: (input: Input) => Promise<void>): Target {
  return { name, batch: 1, seeds: async () => [[seedFile('a.txt', 'text', 'some text')]], run };
}

/** Kept, so that the memory is not given back. */
const kept: Buffer[] = [];

export const targets: readonly Target[] = [
  planted('accepts', async () => undefined),
  planted('refuses', async ({ file }) => {
    throw new FormatError(file, 'expected something else');
  }),
  planted('throws', async () => {
    (null as unknown as string).trim();
  }),
  planted('chatters', async ({ file }) => {
    throw Object.assign(new FormatError(file, ''), { message: 'x'.repeat(100_000) });
  }),
  planted('stands-still', async () => {
    for (;;);
  }),
  planted('never-ends', () => new Promise(() => undefined)),
  planted('allocates', async () => {
    kept.push(Buffer.alloc(700 << 20, 1));
  }),
  planted('leaves-file', async ({ out }) => {
    writeFileSync(path.join(out, '.result.a1b2.tmp'), '');
  }),
  planted('writes-beside', async ({ folder }) => {
    writeFileSync(path.join(folder, 'b.txt'), '');
  }),
  planted('forgets', async () => {
    void Promise.reject(new Error('nobody waits for this'));
  }),
  planted('aborts', async () => {
    process.abort();
  }),
  planted('unreadable', async ({ file }) => {
    await expectReadable('what was written', () => {
      throw new FormatError(file, 'cannot be read');
    });
  }),
  planted('warns', async () => {
    process.emitWarning('to the terminal');
  }),
];
