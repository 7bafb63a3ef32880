import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import {
  readTextFile,
  readTextFileSync,
  readWholeFile,
  readWholeFileSync,
} from '../../src/io/read-small-file.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';

const scratch = scratchFolder();

/** Both ways to read, held to the same answers. */
const ways = [
  ['waiting', readWholeFile, readTextFile],
  ['at once', readWholeFileSync, readTextFileSync],
] as const;

describe.each(ways)('a file read whole, %s', (way, whole, text) => {
  const refused = async (read: () => unknown): Promise<FormatError> => {
    const error = await Promise.resolve()
      .then(read)
      .catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(FormatError);
    return error as FormatError;
  };

  it('gives the bytes, up to the limit', async () => {
    const file = scratch('three.bin');
    writeFileSync(file, Buffer.from([1, 2, 3]));
    expect([...(await whole(file, 3))]).toEqual([1, 2, 3]);
    const error = await refused(() => whole(file, 2, 'a list'));
    expect(error.message).toBe(`${file}: expected a list of at most 2 bytes, got 3`);
  });

  it('leaves out a byte order mark', async () => {
    const file = scratch('mark.txt');
    writeFileSync(file, '\uFEFFgrüße');
    expect(await text(file, 100)).toBe('grüße');
  });

  it('refuses bytes that are no UTF-8, with their place', async () => {
    const file = scratch('latin.txt');
    writeFileSync(file, Buffer.from('grüße', 'latin1'));
    expect((await refused(() => text(file, 100))).message).toContain('got byte 0xfc at 2');
  });

  it('reads UTF-16 where its mark says so, and refuses it without', async () => {
    const file = scratch('wide.txt');
    writeFileSync(file, Buffer.from('\uFEFFgrüße', 'utf16le'));
    expect(await text(file, 100)).toBe('grüße');
    writeFileSync(file, Buffer.from('\uFEFFgrüße', 'utf16le').swap16());
    expect(await text(file, 100)).toBe('grüße');
    writeFileSync(file, Buffer.from('grüße', 'utf16le'));
    expect((await refused(() => text(file, 100))).message).toContain('got byte 0x00 at 1');
    // Half of a pair of surrogates.
    writeFileSync(file, Buffer.from([0xff, 0xfe, 0x00, 0xd8]));
    expect((await refused(() => text(file, 100))).message).toContain('expected text in UTF-16');
  });

  it('refuses a folder, nothing, and a name that no file can have', async () => {
    mkdirSync(scratch('folder'), { recursive: true });
    expect((await refused(() => text(scratch('folder'), 100))).message).toContain('got a folder');
    expect((await refused(() => text(scratch('nothing'), 100))).message).toContain('no such file');
    expect((await refused(() => text('a\0b', 100))).message).toContain('cannot be read');
  });

  // A regular file whose first page nobody may read.
  it.skipIf(process.platform !== 'linux')('says in words what the disk reports', async () => {
    expect((await refused(() => whole('/proc/self/mem', 100))).message).toBe(
      '/proc/self/mem: cannot be read: the disk reports an error',
    );
  });

  it.skipIf(process.platform === 'win32')('refuses devices and pipes without opening them', async () => {
    const pipe = scratch(`pipe-${way.replace(' ', '-')}`);
    execFileSync('mkfifo', [pipe]);
    for (const file of ['/dev/zero', '/dev/null', pipe]) {
      expect((await refused(() => text(file, 100))).message).toContain('got a device or a pipe');
    }
  });

  it.skipIf(process.platform !== 'linux')(
    'reads a file that hides its size, and stops at the limit',
    async () => {
      expect((await text('/proc/self/status', 1 << 20)).startsWith('Name:')).toBe(true);
      expect((await refused(() => text('/proc/self/status', 10))).message).toContain('at most 10 bytes');
    },
  );
});
