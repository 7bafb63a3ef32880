import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { copyTree } from '../../src/io/copy-folder.ts';
import { withFolderLock } from '../../src/io/folder-lock.ts';
import { ownerMark } from '../../src/io/platform/process-owner.ts';
import { writeFileAtomically } from '../../src/io/replace-file.ts';
import { writeFolderAtomically } from '../../src/io/replace-folder.ts';
import { stagedInto } from '../../src/io/staging.ts';
import {
  forget,
  removeAbandoned,
  removeUnfinishedFiles,
  temporaryBeside,
} from '../../src/io/temporary-names.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';

const scratch = scratchFolder();
const hidden = (folder = scratch()): string[] =>
  readdirSync(folder).filter((name) => /\.(tmp|old)$/.test(name));

const withParts =
  (...names: string[]) =>
  async (folder: string): Promise<void> => {
    for (const name of names) {
      mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
      writeFileSync(path.join(folder, name), `new ${name}`);
    }
  };

it('writes a folder, and replaces one that it wrote', async () => {
  const folder = scratch('model');
  await writeFolderAtomically(folder, withParts('a', 'below/b'));
  await writeFolderAtomically(folder, withParts('a', 'c'));
  expect(readdirSync(folder).sort()).toEqual(['.edlora-contents.json', 'a', 'c']);
  expect(hidden()).toEqual([]);
});

it('never replaces a folder that holds anything else', async () => {
  const folder = scratch('owned');
  await writeFolderAtomically(folder, withParts('a'));
  const refused = async (place: string, why: RegExp): Promise<void> => {
    const before = readdirSync(place, { recursive: true });
    let built = false;
    const build = async (): Promise<void> => {
      built = true;
    };
    await expect(writeFolderAtomically(place, build)).rejects.toThrow(why);
    expect([built, readdirSync(place, { recursive: true })]).toEqual([false, before]);
  };
  mkdirSync(scratch('owned/below'));
  writeFileSync(scratch('owned/below/notes.txt'), 'mine');
  await refused(folder, /holds below\/notes\.txt, which this tool did not put there/);
  rmSync(scratch('owned/below'), { recursive: true });
  mkdirSync(scratch('owned/empty'));
  await refused(folder, /holds empty\//);
  mkdirSync(scratch('photographs'));
  writeFileSync(scratch('photographs/1.jpg'), 'mine');
  await refused(scratch('photographs'), /is no folder that this tool wrote/);
  writeFileSync(scratch('photographs/.edlora-contents.json'), '{"tool":"edlora","files":"1.jpg"}');
  await refused(scratch('photographs'), /is no folder that this tool wrote/);
  symlinkSync('model', scratch('link'));
  await refused(scratch('link'), /a file or a link/);
});

it('leaves the old folder, and nothing else, when building fails or the user adds a file meanwhile', async () => {
  const folder = scratch('kept');
  await writeFolderAtomically(folder, withParts('a'));
  const failing = async (temporary: string): Promise<void> => {
    await withParts('half')(temporary);
    throw new RangeError('no more');
  };
  await expect(writeFolderAtomically(folder, failing)).rejects.toThrow(RangeError);
  const late = async (temporary: string): Promise<void> => {
    await withParts('b')(temporary);
    writeFileSync(path.join(folder, 'late.txt'), 'mine');
  };
  await expect(writeFolderAtomically(folder, late)).rejects.toThrow(/holds late\.txt/);
  expect(readdirSync(folder).sort()).toEqual(['.edlora-contents.json', 'a', 'late.txt']);
  expect(hidden()).toEqual([]);
});

it('gives a folder its name back when a killed run had set it aside and not replaced it', async () => {
  const killed = spawn('sleep', ['60']);
  const mark = ownerMark(killed.pid);
  const gone = new Promise((resolve) => killed.once('exit', resolve));
  killed.kill('SIGKILL');
  await gone;
  const place = scratch('cut');
  mkdirSync(path.join(place, `.model.${mark}-0123456789ab.old/model`), { recursive: true });
  writeFileSync(path.join(place, `.model.${mark}-0123456789ab.old/model/a`), 'old');
  mkdirSync(path.join(place, `.done.${mark}-0123456789ab.old/done`), { recursive: true });
  mkdirSync(path.join(place, 'done'));
  writeFileSync(path.join(place, 'done/a'), 'new');
  removeAbandoned(place);
  expect(readdirSync(place).sort()).toEqual(['done', 'model']);
  expect(readFileSync(path.join(place, 'model/a'), 'utf8')).toBe('old');
  expect(readFileSync(path.join(place, 'done/a'), 'utf8')).toBe('new');
});

it('makes all results before the first one takes its place', async () => {
  const folder = scratch('results');
  mkdirSync(folder);
  writeFileSync(path.join(folder, 'a'), 'old');
  writeFileSync(path.join(folder, 'mine'), 'mine');
  const failing = async (staging: string): Promise<void> => {
    await writeFileAtomically(path.join(staging, 'a'), ['new']);
    throw new RangeError('no more');
  };
  await expect(stagedInto(folder, failing)).rejects.toThrow(RangeError);
  expect(readFileSync(path.join(folder, 'a'), 'utf8')).toBe('old');
  await expect(stagedInto(scratch('fresh'), failing)).rejects.toThrow(RangeError);
  expect(existsSync(scratch('fresh'))).toBe(false);
  await stagedInto(folder, async (staging) => {
    await writeFileAtomically(path.join(staging, 'a'), ['new']);
    await writeFolderAtomically(path.join(staging, 'b'), withParts('c'));
  });
  expect(readdirSync(folder).sort()).toEqual(['a', 'b', 'mine']);
  expect(readFileSync(path.join(folder, 'a'), 'utf8')).toBe('new');
});

it('keeps the modes of what it replaces, and can replace what came from a read-only place', async () => {
  const folder = scratch('private');
  await writeFolderAtomically(folder, withParts('a', 'below/b'));
  chmodSync(path.join(folder, 'below/b'), 0o600);
  chmodSync(path.join(folder, 'below'), 0o700);
  chmodSync(folder, 0o700);
  await writeFolderAtomically(folder, withParts('a', 'below/b'));
  const modes = ['', 'below', 'below/b'].map((name) => statSync(path.join(folder, name)).mode & 0o777);
  expect(modes).toEqual([0o700, 0o700, 0o600]);
  mkdirSync(scratch('store/unet'), { recursive: true });
  writeFileSync(scratch('store/unet/weights'), 'x');
  for (const name of ['store/unet/weights', 'store/unet', 'store']) chmodSync(scratch(name), 0o555);
  await copyTree(scratch('store'), scratch('copy'));
  for (const name of ['copy', 'copy/unet', 'copy/unet/weights']) {
    expect(statSync(scratch(name)).mode & 0o200, name).toBe(0o200);
  }
});

it('speaks of the final name, and says where the old folder is when the disk fails between two names', async () => {
  const failing = (temporary: string): Promise<void> =>
    writeFileAtomically(path.join(temporary, 'no/such'), ['x']);
  const refused = await writeFolderAtomically(scratch('spoken'), failing).catch(
    (error: Error) => error.message,
  );
  expect(refused).toBe(`${scratch('spoken')}/no/such: cannot be written: its folder does not exist`);
});

it('an interrupt between two names puts the old folder back', async () => {
  const folder = scratch('interrupted');
  await writeFolderAtomically(folder, withParts('a'));
  const holder = temporaryBeside(folder, 'old');
  mkdirSync(holder);
  renameSync(folder, path.join(holder, 'interrupted'));
  expect(removeUnfinishedFiles()).toEqual([]);
  forget(holder);
  expect(readdirSync(folder)).toContain('a');
  expect(existsSync(holder)).toBe(false);
});

it('replaces results that are links to another disk, all of them or none', async ({ skip }) => {
  if (!existsSync('/dev/shm')) skip('no second disk');
  const elsewhere = mkdtempSync('/dev/shm/edlora-test-');
  try {
    const folder = scratch('linked');
    mkdirSync(folder);
    writeFileSync(path.join(elsewhere, 'b'), 'old');
    symlinkSync(path.join(elsewhere, 'b'), path.join(folder, 'b'));
    await stagedInto(folder, withParts('a', 'b'));
    expect(readFileSync(path.join(elsewhere, 'b'), 'utf8')).toBe('new b');
    expect(lstatSync(path.join(folder, 'b')).isSymbolicLink()).toBe(true);
    symlinkSync('/dev/null', path.join(folder, 'c'));
    writeFileSync(path.join(folder, 'a'), 'old');
    await expect(stagedInto(folder, withParts('a', 'b', 'c'))).rejects.toThrow(/ordinary file/);
    expect(readFileSync(path.join(folder, 'a'), 'utf8')).toBe('old');
    expect([readdirSync(elsewhere), hidden(folder)]).toEqual([['b'], []]);
  } finally {
    rmSync(elsewhere, { recursive: true });
  }
});

it('results of two runs at once are those of one of them', async () => {
  const folder = scratch('rivals');
  const names = ['a', 'b', 'c', 'd', 'e', 'f'];
  await Promise.all(
    Array.from({ length: 6 }, (_, run) =>
      stagedInto(folder, async (staging) => {
        for (const name of names) writeFileSync(path.join(staging, name), `run ${run}`);
      }),
    ),
  );
  expect(new Set(names.map((name) => readFileSync(path.join(folder, name), 'utf8'))).size).toBe(1);
  expect(readdirSync(folder).sort()).toEqual(names);
});

it('a lock of a dead process holds nobody up', async () => {
  const killed = spawn('sleep', ['60']);
  const mark = ownerMark(killed.pid);
  const gone = new Promise((resolve) => killed.once('exit', resolve));
  killed.kill('SIGKILL');
  await gone;
  const folder = scratch('locked');
  mkdirSync(folder);
  writeFileSync(path.join(folder, '.edlora-lock'), `${mark} x`);
  expect(await withFolderLock(folder, async () => readdirSync(folder).includes('.edlora-lock'))).toBe(true);
  expect(readdirSync(folder)).toEqual([]);
});
