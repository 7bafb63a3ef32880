import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { ownerMark } from '../../src/io/process-owner.ts';
import { writeFileAtomically } from '../../src/io/replace-file.ts';
import { writeFolderAtomically } from '../../src/io/replace-folder.ts';
import { stagedInto } from '../../src/io/staging.ts';
import { removeAbandoned } from '../../src/io/temporary-names.ts';
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
