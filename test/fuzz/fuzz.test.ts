/** The tool itself: the same seed gives the same inputs, and every kind of planted fault is seen, by the right input. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { built } from '../support/built-program.ts';
import type { FuzzResult } from './runner.ts';

let tool: string;
let planted: string;
let folder: string;
let statuses: (number | null)[];
let faults: FuzzResult['faults'];
let results: FuzzResult['kinds'];

const ENDLESS = ['stands-still', 'never-ends'];
const SHORT = [
  ...['accepts', 'refuses', 'throws', 'chatters', 'allocates', 'leaves-file', 'writes-beside', 'forgets'],
  ...['aborts', 'unreadable', 'warns'],
];

function fuzz(...argv: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [tool, ...argv], { encoding: 'utf8' });
}

/** One input of each of these kinds. */
function report(...argv: string[]): { status: number | null; result: FuzzResult; lastLine: string } {
  const count = argv.length - argv.indexOf('--only') - 1;
  const { status, stdout, stderr } = fuzz(
    ...['--targets', planted, '--json', '--inputs', String(count), '--keep', path.join(folder, 'kept')],
    ...argv,
  );
  return {
    status,
    result: JSON.parse(stdout) as FuzzResult,
    lastLine: stderr.trimEnd().split('\n').at(-1)!,
  };
}

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-fuzz-test-'));
  tool = built('test/fuzz/main.js');
  planted = path.join(path.dirname(tool), 'planted.js');
  // One input of each kind; what never ends needs not be waited for as long as elsewhere.
  const kinds = [...SHORT, ...ENDLESS];
  const first = report('--only', ...SHORT);
  const second = report('--stall', '1500', '--only', ...ENDLESS);
  expect(first.lastLine).toBe(`${SHORT.length} inputs, ${SHORT.length - 2} faults`);
  expect(second.lastLine).toBe(`${ENDLESS.length} inputs, ${ENDLESS.length} faults`);
  statuses = [first.status, second.status];
  faults = [...first.result.faults, ...second.result.faults];
  results = [...first.result.kinds, ...second.result.kinds];
  expect(results.map(({ kind }) => kind).sort()).toEqual(kinds.sort());
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('planted faults', () => {
  it.each([
    ['throws', 'error', 'TypeError'],
    ['chatters', 'finding', 'message of 1000'],
    ['stands-still', 'hang', 'no end'],
    ['never-ends', 'hang', 'no end'],
    ['allocates', 'memory', 'MB'],
    ['leaves-file', 'files left', '.result.a1b2.tmp'],
    ['writes-beside', 'files left', 'b.txt'],
    ['forgets', 'unhandled', 'nobody waits'],
    ['aborts', 'crash', 'SIGABRT'],
    ['unreadable', 'finding', 'what was written'],
    ['warns', 'printed', 'to the terminal'],
  ])('%s is a fault: %s', (kind, what, message) => {
    const found = faults.filter((fault) => fault.kind === kind);
    expect(found).toMatchObject([{ what, index: 0, count: 1 }]);
    expect(found[0]!.message).toContain(message);
  });

  it('what is accepted or properly refused is none', () => {
    const ofKind = (kind: string) => results.find((entry) => entry.kind === kind);
    expect(ofKind('accepts')).toMatchObject({ inputs: 1, accepted: 1, faults: 0 });
    expect(ofKind('refuses')).toMatchObject({ inputs: 1, accepted: 0, faults: 0 });
  });

  it('the exit code says that there are faults', () => {
    expect(statuses).toEqual([1, 1]);
  });

  it('the inputs are kept, and --at finds the fault again', () => {
    expect(readdirSync(path.join(folder, 'kept')).length).toBe(11);
    const again = fuzz(
      ...['--targets', planted, '--only', 'throws', '--at', '0', '--keep', path.join(folder, 'again')],
    );
    expect(again.status).toBe(1);
    expect(again.stdout).toContain('planted.js');
    const kept = (where: string): Buffer => readFileSync(path.join(folder, where, 'throws-1-0/a.txt'));
    expect(kept('again').equals(kept('kept'))).toBe(true);
  });

  it('without faults it ends with 0', () => {
    const { status, stdout } = fuzz('--targets', planted, '--only', 'accepts', '--inputs', '30');
    expect(status).toBe(0);
    expect(stdout.trimEnd().split('\n').at(-1)).toBe('30 inputs, 0 faults');
  });
});
