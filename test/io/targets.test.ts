import { spawn } from 'node:child_process';
import { linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { ownerMark } from '../../src/io/platform/process-owner.ts';
import { writeFolderAtomically } from '../../src/io/replace-folder.ts';
import { checkFileTarget, checkFolderTarget, checkResultsFolder } from '../../src/io/targets.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';

const scratch = scratchFolder();
const input = scratch('input.pth');
writeFileSync(input, 'x');
mkdirSync(scratch('model/unet'), { recursive: true });
writeFileSync(scratch('model/unet/weights'), 'x');
const inputs = [input, scratch('model')];
const file =
  (target: string, force = true) =>
  () =>
    checkFileTarget(target, { inputs, force });
const folder =
  (target: string, force = true) =>
  () =>
    checkFolderTarget(target, { inputs, force });

it('never lets an input be a target, however it is spelled or linked', () => {
  symlinkSync('input.pth', scratch('link.pth'));
  linkSync(input, scratch('hard.pth'));
  symlinkSync('.', scratch('here'));
  const spellings = [
    input,
    path.relative('.', input),
    `${scratch()}/missing/../input.pth`,
    `${scratch()}//./input.pth`,
    scratch('link.pth'),
    scratch('hard.pth'),
    scratch('here/input.pth'),
    scratch('model/unet/weights'),
  ];
  for (const spelling of spellings) expect(file(spelling), spelling).toThrow(/inputs are never changed/);
  expect(file(scratch('other.pth'))).not.toThrow();
  expect(file(scratch('model/unet/new'))).not.toThrow();
});

it('asks before it replaces a file, through any spelling, and refuses what is no ordinary file', () => {
  writeFileSync(scratch('taken'), 'x');
  for (const name of [scratch('taken'), `${scratch()}/nothing/../taken`]) {
    expect(file(name, false)).toThrow(/exists; choose another name, or `force`/);
    expect(file(name)).not.toThrow();
  }
  expect(file('/dev/null')).toThrow(/expected an ordinary file/);
  expect(file(scratch())).toThrow(/a folder of that name/);
});

it('never lets a folder be replaced that holds an input, lies in one, or is not this tool’s', async () => {
  for (const target of [scratch(), path.dirname(scratch()), scratch('here'), '/']) {
    expect(folder(target), target).toThrow(/holds the input/);
  }
  expect(folder(scratch('model/copy'))).toThrow(/lies in the input/);
  expect(folder(scratch('model'))).toThrow(/is also an input/);
  mkdirSync(scratch('empty'));
  expect(folder(scratch('empty'), false)).not.toThrow();
  mkdirSync(scratch('mine'));
  writeFileSync(scratch('mine/a'), 'x');
  expect(folder(scratch('mine'), false)).toThrow(/exists/);
  expect(folder(scratch('mine'))).toThrow(/is no folder that this tool wrote/);
  await writeFolderAtomically(scratch('own'), async (place) => writeFileSync(path.join(place, 'a'), 'x'));
  expect(folder(scratch('own'))).not.toThrow();
  expect(folder(scratch('own'), false)).toThrow(/exists/);
});

it('asks before it replaces a folder that a killed run had set aside', async () => {
  const killed = spawn('sleep', ['60']);
  const mark = ownerMark(killed.pid);
  const gone = new Promise((resolve) => killed.once('exit', resolve));
  killed.kill('SIGKILL');
  await gone;
  const aside = scratch(`cut/.model.${mark}-0123456789ab.old`);
  mkdirSync(aside, { recursive: true });
  await writeFolderAtomically(path.join(aside, 'model'), async (place) =>
    writeFileSync(path.join(place, 'a'), 'x'),
  );
  expect(folder(scratch('cut/model'), false)).toThrow(/exists; choose another name, or `force`/);
  expect(folder(scratch('cut/model'))).not.toThrow();
});

it('asks before results go beside what is there', () => {
  expect(() => checkResultsFolder(scratch('nowhere'), false)).not.toThrow();
  expect(() => checkResultsFolder(scratch('empty'), false)).not.toThrow();
  expect(() => checkResultsFolder(scratch('mine'), false)).toThrow(/not empty/);
  expect(() => checkResultsFolder(scratch('mine'), true)).not.toThrow();
  expect(() => checkResultsFolder(input, true)).toThrow(/expected a folder/);
});
