/** A file that is kept open: read at once or while the caller goes on, and closed when nobody reads it any more. */
import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OpenFile } from '../../src/io/file-range.ts';

const CONTENT = Uint8Array.from({ length: 5000 }, (_, i) => i % 251);

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-file-range-'));
  file = path.join(folder, 'numbers');
  writeFileSync(file, CONTENT);
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('a file kept open', () => {
  it('is read the same at once and later, into memory that was given', async () => {
    const open = new OpenFile(file);
    const source = open.identify();
    const into = new Uint8Array(300);
    expect(open.read(source, 1000, 1300)).toEqual(CONTENT.subarray(1000, 1300));
    expect(await open.readLater(source, 1000, 1300, into)).toBe(into);
    expect(into).toEqual(CONTENT.subarray(1000, 1300));
    open.close();
  });

  it.each(['at once', 'later'])(
    'is refused %s beyond its end, when it changed, and when it is closed',
    async (when) => {
      const open = new OpenFile(file);
      const source = open.identify();
      const read = async (end: number) =>
        when === 'later' ? open.readLater(source, 0, end) : open.read(source, 0, end);
      await expect(read(5001)).rejects.toThrow('expected at least 5001 bytes, got 5000');
      truncateSync(file, 10);
      await expect(read(5000)).rejects.toThrow('changed');
      open.close();
      await expect(read(5)).rejects.toThrow('read after it was closed');
    },
  );

  it('that is closed while it is read is read to the end, and then closed', async () => {
    const descriptors = (): number => readdirSync('/proc/self/fd').length;
    const open = new OpenFile(file);
    const held = descriptors();
    const reading = [open.readLater(open.identify(), 0, 5000), open.readLater(open.identify(), 10, 20)];
    open.close();
    expect(descriptors()).toBe(held);
    expect(await Promise.all(reading)).toEqual([CONTENT, CONTENT.subarray(10, 20)]);
    expect(descriptors()).toBe(held - 1);
  });
});
