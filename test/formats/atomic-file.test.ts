import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { EdloraError } from '../../src/errors.ts';
import { removeUnfinishedFiles, writeFileAtomically } from '../../src/formats/atomic-file.ts';
import { scratchFolder } from './scratch-folder.ts';

const scratch = scratchFolder();

it('writes bytes and text, and replaces what was there', async () => {
  const file = scratch('note');
  writeFileSync(file, 'old and longer than the new one');
  await writeFileAtomically(file, ['ü', Uint8Array.of(0x21)]);
  expect(readFileSync(file, 'utf8')).toBe('ü!');
  expect(readdirSync(scratch())).toEqual(['note']);
});

it('keeps the old file and leaves nothing behind when the content fails', async () => {
  const file = scratch('kept');
  writeFileSync(file, 'old');
  const broken = (function* () {
    yield 'half';
    throw new RangeError('no more');
  })();
  await expect(writeFileAtomically(file, broken)).rejects.toThrow(RangeError);
  expect(readFileSync(file, 'utf8')).toBe('old');
  expect(readdirSync(scratch()).filter((name) => name.endsWith('.tmp'))).toEqual([]);
});

it('removes what an interrupt leaves unfinished', async () => {
  let during: string[] = [];
  const slow = (async function* () {
    yield 'half';
    during = readdirSync(scratch()).filter((name) => name.endsWith('.tmp'));
    removeUnfinishedFiles();
    expect(readdirSync(scratch()).filter((name) => name.endsWith('.tmp'))).toEqual([]);
    throw new Error('interrupted');
  })();
  await expect(writeFileAtomically(scratch('cut'), slow)).rejects.toThrow('interrupted');
  expect(during.length).toBe(1);
  expect(existsSync(scratch('cut'))).toBe(false);
});

it('says why a file cannot be written', async () => {
  await expect(writeFileAtomically(scratch('no/such/file'), ['x'])).rejects.toThrow(/folder does not exist/);
  mkdirSync(scratch('folder'));
  await expect(writeFileAtomically(scratch('folder'), ['x'])).rejects.toThrow(EdloraError);
  await expect(writeFileAtomically(scratch('folder'), ['x'])).rejects.toThrow(/a folder of that name/);
});
