import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { expect, it } from 'vitest';
import { EdloraError } from '../../src/errors.ts';
import { ownerMark } from '../../src/io/platform/process-owner.ts';
import { readyForPlace, writeFileAtomically, writeUnderFreeName } from '../../src/io/replace-file.ts';
import { removeUnfinishedFiles } from '../../src/io/temporary-names.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';

const scratch = scratchFolder();
const temporaries = (): string[] => readdirSync(scratch()).filter((name) => /\.(tmp|old)$/.test(name));

it('writes bytes and text, and replaces what was there', async () => {
  const file = scratch('note');
  writeFileSync(file, 'old and longer than the new one');
  await writeFileAtomically(file, ['ü', Uint8Array.of(0x21)]);
  expect(readFileSync(file, 'utf8')).toBe('ü!');
  expect(readdirSync(scratch())).toEqual(['note']);
});

it('writes what takes several calls', async () => {
  const file = scratch('long');
  const bytes = Uint8Array.from({ length: 1_300_001 }, (_, i) => (i * i) >> 7);
  await writeFileAtomically(file, ['begin', bytes, 'end']);
  expect(readFileSync(file).equals(Buffer.concat([Buffer.from('begin'), bytes, Buffer.from('end')]))).toBe(
    true,
  );
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
  expect(temporaries()).toEqual([]);
});

it('removes what an interrupt leaves unfinished', async () => {
  let during: string[] = [];
  const slow = (async function* () {
    yield 'half';
    during = temporaries();
    expect(removeUnfinishedFiles()).toEqual([]);
    expect(temporaries()).toEqual([]);
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

it('keeps the mode of what it replaces, and is never more open while it writes', async () => {
  const file = scratch('private');
  writeFileSync(file, 'secret');
  chmodSync(file, 0o600);
  const content = (function* () {
    const [name] = temporaries();
    expect(statSync(scratch(name!)).mode & 0o777).toBe(0o600);
    yield 'new secret';
  })();
  await writeFileAtomically(file, content);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  chmodSync(file, 0o640);
  writeFileSync(scratch('finished'), 'newer');
  await (await readyForPlace(scratch('finished'), file)).finish();
  expect([readFileSync(file, 'utf8'), statSync(file).mode & 0o777]).toEqual(['newer', 0o640]);
});

it('replaces what a link points to, through several links and where nothing stands yet', async () => {
  mkdirSync(scratch('elsewhere'), { recursive: true });
  writeFileSync(scratch('elsewhere/real'), 'old');
  symlinkSync('elsewhere/real', scratch('link'));
  symlinkSync('link', scratch('link-to-link'));
  await writeFileAtomically(scratch('link-to-link'), ['new']);
  expect(readFileSync(scratch('elsewhere/real'), 'utf8')).toBe('new');
  expect([readlinkSync(scratch('link')), readlinkSync(scratch('link-to-link'))]).toEqual([
    'elsewhere/real',
    'link',
  ]);
  symlinkSync('elsewhere/later', scratch('dangling'));
  await writeFileAtomically(scratch('dangling'), ['there']);
  expect(lstatSync(scratch('dangling')).isSymbolicLink()).toBe(true);
  expect(readFileSync(scratch('elsewhere/later'), 'utf8')).toBe('there');
  symlinkSync('circle', scratch('circle'));
  await expect(writeFileAtomically(scratch('circle'), ['x'])).rejects.toThrow(/links in a row/);
});

it('never replaces a device or a pipe', async () => {
  const pipe = scratch('pipe');
  expect(spawnSync('mkfifo', [pipe]).status).toBe(0);
  for (const target of [pipe, '/dev/null']) {
    await expect(writeFileAtomically(target, ['x'])).rejects.toThrow(/expected an ordinary file to replace/);
  }
  expect(lstatSync(pipe).isFIFO()).toBe(true);
  expect(lstatSync('/dev/null').isCharacterDevice()).toBe(true);
  symlinkSync('/dev/null', scratch('null'));
  await expect(writeFileAtomically(scratch('null'), ['x'])).rejects.toThrow(/expected an ordinary file/);
});

it('takes the first free name, and shares none with a writer at the same time', async () => {
  const nameAt = (n: number): string => scratch(`number-${n}`);
  writeFileSync(nameAt(0), 'a user’s');
  const results = await Promise.all(
    Array.from({ length: 8 }, (_, i) => writeUnderFreeName(nameAt, [`${i}`])),
  );
  expect(new Set(results.map(({ file }) => file)).size).toBe(8);
  for (const [i, { file }] of results.entries()) expect(readFileSync(file, 'utf8')).toBe(`${i}`);
  expect(results.map(({ n }) => n).sort()).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(readFileSync(nameAt(0), 'utf8')).toBe('a user’s');
  expect(temporaries()).toEqual([]);
});

it('removes what a killed process left, and nothing of a living one', async () => {
  mkdirSync(scratch('swept'));
  const [killed, living] = [spawn('sleep', ['60']), spawn('sleep', ['60'])];
  try {
    const nameOf = (what: string, { pid }: typeof killed): string =>
      `.${what}.${ownerMark(pid)}-0123456789ab.tmp`;
    const names = [nameOf('a', killed), nameOf('b', living), '.note.0123456789ab.tmp', 'c.tmp'];
    for (const name of names) writeFileSync(scratch('swept', name), 'half');
    mkdirSync(scratch('swept', nameOf('folder', killed)));
    writeFileSync(scratch('swept', nameOf('folder', killed), 'part'), 'half');
    const gone = new Promise((resolve) => killed.once('exit', resolve));
    killed.kill('SIGKILL');
    await gone;
    await writeFileAtomically(scratch('swept/mine'), ['x']);
    expect(readdirSync(scratch('swept')).sort()).toEqual([...names.slice(1), 'mine'].sort());
  } finally {
    living.kill();
  }
});
