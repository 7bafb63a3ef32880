/** Errors of the operating system are the user's to solve: a sentence, a path, a way out. */
import { mkdtempSync, openSync, readdirSync, readFileSync, readSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sayFailure } from '../../cli/failure.ts';
import { EdloraError } from '../../src/errors.ts';
import { systemErrorInWords } from '../../src/io/on-disk.ts';
import { fakeIo } from '../support/fake-io.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-system-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const thrownBy = (call: () => unknown): unknown => {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
};

/** As Node makes them. */
const systemError = (code: string, syscall: string, file?: string, dest?: string): Error =>
  Object.assign(new Error(`${code}: nothing to show, ${syscall}`), {
    errno: -1,
    code,
    syscall,
    path: file,
    dest,
  });

describe('errors of the operating system', () => {
  it('name the path and what to do', async () => {
    const missing = path.join(folder, 'nothing');
    expect(systemErrorInWords(thrownBy(() => readFileSync(missing)))).toBe(
      `${missing}: there is no such file or folder; check the path`,
    );
    expect(systemErrorInWords(await readFile(folder).catch((error: unknown) => error))).toMatch(
      /expected a file, got a folder$/,
    );
    expect(systemErrorInWords(thrownBy(() => readdirSync(missing)))).toContain(missing);
  });

  it.each([
    ...[
      'EACCES',
      'EPERM',
      'ENOENT',
      'ENOSPC',
      'EDQUOT',
      'EROFS',
      'EISDIR',
      'ENOTDIR',
      'EMFILE',
      'ENFILE',
      'ELOOP',
    ],
    ...[
      'ENAMETOOLONG',
      'EIO',
      'EXDEV',
      'EBUSY',
      'ETXTBSY',
      'EFBIG',
      'ENOTEMPTY',
      'EEXIST',
      'ESTALE',
      'EINVAL',
    ],
    ...['ENOTSUP', 'ETIMEDOUT', 'EAGAIN', 'ENXIO', 'ENODEV', 'EMLINK', 'ENOMEM', 'EHOSTDOWN'],
  ])('%s is no defect', (code) => {
    const io = fakeIo();
    const { signal } = new AbortController();
    for (const error of [
      systemError(code, 'open', '/disk/a.safetensors'),
      systemError(code, 'fsync'),
      systemError(code, 'rename', '/disk/a', '/disk/b'),
    ]) {
      expect(sayFailure(error, { io, signal, verbose: false })).toBe(1);
    }
    const lines = io.written.err.trimEnd().split('\n');
    expect(lines).toHaveLength(3);
    expect(lines[0]).toMatch(/^error: \/disk\/a\.safetensors: .{10,}$/);
    expect(lines[1]).toMatch(/^error: a file \(fsync\): .{10,}$/);
    expect(lines[2]).toMatch(/^error: \/disk\/a → \/disk\/b: .{10,}$/);
    expect(io.written.err).not.toContain('defect');
  });

  it('are told from defects', () => {
    expect(systemErrorInWords(new EdloraError('x'))).toBeNull();
    expect(systemErrorInWords(new TypeError('x'))).toBeNull();
    expect(systemErrorInWords(Object.assign(new Error('x'), { code: 'ERR_INVALID_ARG_TYPE' }))).toBeNull();
    const closed = openSync(folder, 'r') + 1000;
    expect(systemErrorInWords(thrownBy(() => readSync(closed, new Uint8Array(1))))).toBeNull();
  });
});
