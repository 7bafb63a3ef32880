/** What the terminal shows: tables that fit, numbers as people read them, progress on and off a terminal. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ProgressLine } from '../../cli/terminal/progress.ts';
import { bytes, duration, percent, shorten, table, times } from '../../cli/terminal/table.ts';
import { fakeIo } from '../support/fake-io.ts';

describe('table', () => {
  const rows = [
    { name: 'a', file: 'concepts/a/very/long/path/to/a.safetensors', kept: 9 },
    { name: 'bb', file: 'b.pth', kept: 100 },
  ];

  it('aligns, and cuts the flexible column where it is too wide', () => {
    const text = table(
      rows,
      [
        { title: 'name', value: ({ name }) => name },
        { title: 'file', value: ({ file }) => file, flexible: true },
        { title: 'kept', value: ({ kept }) => String(kept), align: 'right' },
      ],
      30,
    );
    const lines = text.trimEnd().split('\n');
    expect(lines.map((line) => [...line].length)).toEqual([30, 30, 30]);
    expect(lines[1]).toMatch(/^a +….*\.safetensors +9$/);
    expect(lines[2]).toMatch(/^bb +b\.pth +100$/);
  });

  it('counts characters, not code units', () => {
    expect(shorten('😀😀😀', 3)).toBe('😀😀😀');
    expect(shorten('😀😀😀', 2)).toBe('…😀');
  });
});

it('writes numbers as people read them', () => {
  expect([999, 1000, 360_000, 6.6e6, 4.27e9].map(bytes)).toEqual([
    '999 bytes',
    '1.00 kB',
    '360 kB',
    '6.60 MB',
    '4.27 GB',
  ]);
  expect([400, 59_900, 185_000].map(duration)).toEqual(['0.4 s', '59.9 s', '3 min 05 s']);
  expect([percent(0.894), percent(null), times(1.44), times(12.3)]).toEqual([
    '89 %',
    '–',
    '1.4 times',
    '12 times',
  ]);
});

describe('progress', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  /** One unit a second: 10 of `first`, 40 of `second`. */
  function work(line: ProgressLine): void {
    for (let done = 1; done <= 50; done++) {
      vi.advanceTimersByTime(1000);
      const group = done <= 10 ? 'first' : 'second';
      line.update({ activity: `${group}: unit ${done}`, done, total: 50 }, group);
    }
    line.finish();
  }

  it('off a terminal prints a line per stage and one every five seconds', () => {
    const io = fakeIo();
    work(new ProgressLine(io, { unequalGroups: true }));
    const lines = io.written.err.trimEnd().split('\n');
    expect(lines).toHaveLength(10);
    expect(lines[0]).toBe('first: unit 1 (1/50)');
    expect(lines[1]).toBe('first: unit 6 (6/50, 44.0 s left)');
    expect(lines[2]).toBe('second: unit 11 (11/50)');
    expect(io.written.err).not.toContain('\x1b');
    expect(io.written.out).toBe('');
  });

  it('on a terminal redraws one line that fits, and takes it away', () => {
    const io = fakeIo({ interactive: true, columns: 60 });
    work(new ProgressLine(io));
    expect(io.written.err).not.toContain('\n');
    const drawn = io.written.err.split('\r\x1b[2K');
    expect(drawn.at(-1)).toBe('');
    expect(drawn.every((text) => [...text].length < 60)).toBe(true);
  });

  it('knows how long the rest takes from the first units on, where units are weighed', () => {
    const io = fakeIo();
    const line = new ProgressLine(io);
    const texts = 10;
    const steps = 20;
    // A text costs one, a step a thousand; the first step waits ten seconds for its network.
    const all = texts + 1000 * steps;
    for (let done = 1; done <= texts + steps; done++) {
      const stepsDone = Math.max(0, done - texts);
      vi.advanceTimersByTime(done <= texts ? 500 : done === texts + 1 ? 20_000 : 10_000);
      const share = (Math.min(done, texts) + 1000 * stepsDone) / all;
      const group = done <= texts ? 'text' : 'steps';
      line.update({ activity: `${group} ${done}`, done, total: texts + steps, share }, group);
    }
    const lines = io.written.err.trimEnd().split('\n');
    expect(lines.filter((text) => text.includes('to go'))).toEqual(['about 3 min 00 s to go']);
    const told = lines.indexOf('about 3 min 00 s to go');
    expect(lines[told - 1]).toBe('steps 11 (11/30)');
    expect(lines[told + 1]).toBe('steps 12 (12/30, 3 min 00 s left)');
    expect(lines.slice(0, told).every((text) => !text.includes('left'))).toBe(true);
  });

  it('says once for each phase that differs how long it takes, and nothing where that is short', () => {
    const io = fakeIo();
    const line = new ProgressLine(io, { unequalGroups: true });
    for (const [group, each] of [
      ['encoding', 100],
      ['training', 3000],
    ] as const) {
      for (let done = 1; done <= 50; done++) {
        vi.advanceTimersByTime(each);
        line.update({ activity: `${group} ${done}`, done, total: 50 }, group);
      }
    }
    const said = io.written.err.split('\n').filter((text) => text.includes('to go'));
    expect(said).toEqual(['training: about 2 min 18 s to go']);
  });
});
