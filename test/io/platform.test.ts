/** The browser's side of io/platform against Node's: the same names, the same answers. */
import { createHash, randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { posix } from 'node:path';
import zlib from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as deflate from '../../src/io/platform/deflate.browser.ts';
import * as disk from '../../src/io/platform/disk.browser.ts';
import * as paths from '../../src/io/platform/paths.browser.ts';
import { sha256, sha256OfFile } from '../../src/io/platform/sha256.browser.ts';

const names = readdirSync(new URL('../../src/io/platform/', import.meta.url));

describe('both platforms', () => {
  it.each(names.filter((name) => !name.includes('.browser.')))('answer for the same in %s', async (name) => {
    const folder = '../../src/io/platform/';
    const node = Object.keys(await import(folder + name));
    const browser = Object.keys(await import(folder + name.replace('.ts', '.browser.ts')));
    expect(browser).toEqual(expect.arrayContaining(node));
    expect(browser.filter((key) => !node.includes(key))).toEqual(name === 'disk.ts' ? ['putFile'] : []);
  });
});

describe('paths in a browser', () => {
  const path = fc
    .array(fc.constantFrom('/', '/', '.', '..', 'a', 'model.safetensors', 'b.c.d', '.hidden', 'é '), {
      maxLength: 8,
    })
    .map((parts) => parts.join(''));
  const fromRoot = (...parts: string[]) => posix.resolve('/', ...parts);

  it('are put together and taken apart as in POSIX', () => {
    fc.assert(
      fc.property(path, path, (a, b) => {
        expect(paths.resolve(a, b)).toBe(fromRoot(a, b));
        expect(paths.relative(a, b)).toBe(posix.relative(fromRoot(a), fromRoot(b)));
        expect(paths.join(a, b)).toBe(posix.join(a, b));
        expect(paths.basename(a)).toBe(posix.basename(a));
        expect(paths.extname(a)).toBe(posix.extname(a));
        expect(paths.isAbsolute(a)).toBe(posix.isAbsolute(a));
        expect(paths.dirname(fromRoot(a))).toBe(posix.dirname(fromRoot(a)));
        expect(paths.parse(fromRoot(a))).toEqual(posix.parse(fromRoot(a)));
        expect(paths.parse(posix.basename(a))).toEqual(posix.parse(posix.basename(a)));
      }),
      { numRuns: 2000 },
    );
  });
});

describe('hashes in a browser', () => {
  it('are SHA-256, however the parts are cut', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 150 }), { maxLength: 5 }), (parts) => {
        const [own, node] = [sha256(), createHash('sha256')];
        for (const part of parts) [own.update(part), node.update(part)];
        expect(own.digest('hex')).toBe(node.digest('hex'));
      }),
    );
  });

  it('of files count what is in them', async () => {
    const bytes = new Uint8Array(randomBytes(5_000_000));
    disk.putFile('/in/a.bin', bytes);
    expect(await sha256OfFile('/in/a.bin', bytes.length)).toBe(
      createHash('sha256').update(bytes).digest('hex'),
    );
  });
});

describe('deflate in a browser', () => {
  const texts = fc.oneof(
    fc.uint8Array({ maxLength: 3000 }),
    fc.array(fc.constantFrom(0, 1, 255), { maxLength: 70_000 }).map((bytes) => Uint8Array.from(bytes)),
  );
  it('unpacks what zlib packs, at every level and strategy', () => {
    fc.assert(
      fc.property(texts, fc.integer({ min: 0, max: 9 }), fc.constantFrom(0, 4), (bytes, level, strategy) => {
        const raw = zlib.deflateRawSync(bytes, { level, strategy });
        expect(Buffer.from(deflate.inflateRaw(raw, bytes.length + 1)).equals(bytes)).toBe(true);
        const framed = zlib.deflateSync(bytes, { level, strategy });
        expect(Buffer.from(deflate.inflate(framed, bytes.length + 1)).equals(bytes)).toBe(true);
        expect(deflate.crc32(bytes)).toBe(zlib.crc32(bytes));
      }),
      { numRuns: 60 },
    );
  });

  it('stops at the allowed size with a RangeError, and takes a checksum with what was before', () => {
    const packed = zlib.deflateRawSync(new Uint8Array(1 << 20));
    expect(() => deflate.inflateRaw(packed, 1 << 19)).toThrow(RangeError);
    const bytes = randomBytes(100);
    expect(deflate.crc32(bytes.subarray(40), deflate.crc32(bytes.subarray(0, 40)))).toBe(zlib.crc32(bytes));
  });

  it('refuses what zlib refuses', () => {
    const whole = zlib.deflateSync(Buffer.from('words and words and words'.repeat(20)));
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const damaged = Buffer.from(whole);
        damaged[at]! ^= change;
        const outcome = (inflate: () => Uint8Array) => {
          try {
            return Buffer.from(inflate()).toString('hex');
          } catch {
            return 'refused';
          }
        };
        expect(outcome(() => deflate.inflate(damaged, 10_000))).toBe(
          outcome(() => zlib.inflateSync(damaged, { maxOutputLength: 10_000 })),
        );
        expect(outcome(() => deflate.inflate(whole.subarray(0, at), 10_000))).toBe('refused');
      }),
      { numRuns: 500 },
    );
  });

  it('packs what zlib unpacks', async () => {
    const bytes = randomBytes(5000);
    expect(zlib.inflateSync(await deflate.deflateAside(bytes)).equals(bytes)).toBe(true);
  });
});

describe('a disk in memory', () => {
  it('reads ranges of what was put there', () => {
    disk.putFile('/in/b.bin', Uint8Array.of(1, 2, 3, 4, 5));
    const [descriptor, target] = [disk.openSync('/in/b.bin'), new Uint8Array(4)];
    expect(disk.readSync(descriptor, target, 1, 3, 3)).toBe(2);
    expect([...target]).toEqual([0, 4, 5, 0]);
    disk.closeSync(descriptor);
    expect(() => disk.readSync(descriptor, target, 0, 1, 0)).toThrow('EBADF');
  });

  it('speaks in the codes of a system', async () => {
    disk.putFile('/in/c/d', new Uint8Array(1));
    const codeOf = async (step: () => unknown) => {
      try {
        await step();
        return null;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code;
      }
    };
    expect(await codeOf(() => disk.statSync('/in/nothing'))).toBe('ENOENT');
    expect(await codeOf(() => disk.statSync('/in/c/d/e'))).toBe('ENOTDIR');
    expect(await codeOf(() => disk.open('/in/c/d', 'wx'))).toBe('EEXIST');
    expect(await codeOf(() => disk.linkSync('/in/b.bin', '/in/c/d'))).toBe('EEXIST');
    expect(await codeOf(() => disk.rmdir('/in/c'))).toBe('ENOTEMPTY');
    expect(await codeOf(() => disk.renameSync('/in/c/d', '/in'))).toBe('EISDIR');
  });
});
