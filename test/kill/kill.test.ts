/** The tool sees what is wrong: programs that break one rule each, on purpose. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { packageRoot } from '../../src/package-root.ts';
import { Random } from '../fuzz/random.ts';
import { disturbances, errorsOf, kindOf } from './disturbance.ts';
import type { Job } from './jobs.ts';
import { Trial, type TrialFolders } from './trial.ts';

let root: string;
let folders: TrialFolders;
beforeEach(() => {
  root = mkdtempSync(path.join(tmpdir(), 'edlora-kill-test-'));
  folders = {
    program: path.join(packageRoot(), 'test/kill/planted.mjs'),
    inputs: path.join(root, 'inputs'),
    work: path.join(root, 'work'),
    hangMs: 2000,
  };
  mkdirSync(folders.inputs);
  writeFileSync(path.join(folders.inputs, 'input.txt'), 'an input\n');
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const planted = (way: string, more: Partial<Job> = {}): Job => ({
  name: way,
  line: (out) => [way, out],
  out: 'out',
  ...more,
});

/** Rules that a disturbed run of a planted program breaks, and what was found. */
async function broken(job: Job, at: string, how: string): Promise<string[]> {
  const trial = await Trial.prepare(job, folders);
  const { faults } = await trial.run({ at, how }, 1);
  return faults.map(({ rule, what }) => `${rule}: ${what}`);
}

describe('a program that does it right', () => {
  it.each([
    ['write:1', 'kill'],
    ['rename:1', 'kill'],
    ['open:1', 'EACCES'],
    ['write:1', 'ENOSPC+'],
    ['rename:1', 'EIO'],
    ['0ms', 'kill'],
    ['0ms', 'SIGTERM'],
    ['0ms', 'twice'],
  ])('has no fault at %s by %s', async (at, how) => {
    expect(await broken(planted('right'), at, how)).toEqual([]);
  });

  it('tells its calls', async () => {
    const { calls } = await Trial.prepare(planted('right'), folders);
    expect(calls.map(({ name }) => name)).toEqual(['open:1', 'write:1', 'rename:1', 'unlink:1']);
  });
});

describe('a program that does it wrong', () => {
  const old = { before: [['right', 'out']] };
  it.each<[string, Partial<Job>, string, string, RegExp]>([
    ['straight', {}, 'write:1', 'kill', /^whole: out: neither the old nor the new content$/],
    ['straight', {}, 'write:1', 'ENOSPC', /^whole: out: neither/],
    [
      'one-by-one',
      { units: ['out'] },
      'rename:2',
      'kill',
      /^whole: out: neither the old one nor the new one/,
    ],
    ['removes-first', old, 'open:1', 'kill', /^whole: out: what stood there is lost$/],
    ['meddles', {}, 'rename:1', 'kill', /^untouched: notes\.txt: changed or gone$/],
    ['changes-input', {}, 'rename:1', 'kill', /^untouched: input input\.txt: changed or gone$/],
    ['litters', {}, 'rename:1', 'ENOSPC', /^whole: \.out\.\S+\.tmp: temporary, left by a run/],
    ['litters', {}, 'rename:1', 'kill', /^again: \.out\.\S+\.tmp: temporary, and still there$/],
    ['goes-on', {}, 'rename:1', 'kill', /^again: out: not as an undisturbed run writes it$/],
    ['stubborn', {}, 'open:2', 'kill', /^again: run again, it ended with 2: error: out: somebody is at it$/],
    ['defect', {}, 'write:1', 'EIO', /^said: called a defect/],
    ['defect', {}, 'write:1', 'EIO', /^said: in the words of the system: error: EIO/],
    ['mumbles', {}, 'write:1', 'EIO', /^said: does not name the file: error: something went wrong$/],
    ['reads', {}, 'read:1', 'EMFILE', /^said: does not name the file: error: an input cannot be read$/],
    ['names-temporary', {}, 'write:1', 'EIO', /^said: names a temporary file/],
    ['straight', {}, 'write:1', 'EIO', /^said: shows a stack$/],
    ['claims', {}, 'write:1', 'EIO', /^said: ended with 0, but out: not as an undisturbed run writes it$/],
    ['deaf', {}, 'write:1', 'SIGINT', /^said: ended with 0, but out: not as/],
    ['hangs', {}, 'rename:1', 'ENOSPC', /^hang: did not end/],
  ])('%s %o is seen at %s by %s', async (way, more, at, how, expected) => {
    expect(await broken(planted(way, more), at, how)).toContainEqual(expect.stringMatching(expected));
  });
});

describe('disturbances', () => {
  const calls = ['open:1', 'write:1', 'write:2', 'rename:1'].map((name) => ({ name, file: '' }));
  const first = (seed: number, count: number) => {
    const all = disturbances(new Random(seed), { calls, elapsedMs: 1000, twos: ['twice'] });
    return Array.from({ length: count }, () => all.next().value!);
  };

  it('are the same for the same seed', () => {
    expect(first(1, 40)).toEqual(first(1, 40));
    expect(first(1, 40)).not.toEqual(first(2, 40));
  });

  it('kill at every call and fail each in every way before one comes again', () => {
    const failures = calls.flatMap(({ name }) => errorsOf(name).map((how) => `${name} ${how}`));
    const found = first(3, 4 * failures.length).map((one) => ({ ...one, kind: kindOf(one) }));
    const failed = found.filter(({ kind }) => kind === 'failed call').map(({ at, how }) => `${at} ${how}`);
    expect(failed.slice(0, failures.length).sort()).toEqual(failures.sort());
    const killed = found.filter(({ kind }) => kind === 'killed at a call').map(({ at }) => at);
    expect(killed.slice(0, calls.length).sort()).toEqual(calls.map(({ name }) => name).sort());
  });
});
