import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { placesOf, recordedFiles, recordedPath, relativeRecord } from '../../src/io/recorded-path.ts';

const home = os.homedir();

describe.skipIf(path.sep === '\\')('a path in a file that is shared', () => {
  it('is relative where both lie together', () => {
    expect(recordedPath('/data/a/out/in.safetensors', '/data/a/out')).toBe('in.safetensors');
    expect(recordedPath('/data/a/concepts/in.pth', '/data/a/out')).toBe('../concepts/in.pth');
    expect(recordedPath(path.join(home, 'loras/a.pth'), path.join(home, 'work/out'))).toBe(
      '../../loras/a.pth',
    );
    expect(relativeRecord('/data/a', '/data/a')).toBe('.');
  });

  it('is a name where they share no more than the disk, or the folder of all users', () => {
    expect(recordedPath('/data/mine/in.pth', '/results/out')).toBe('in.pth');
    expect(recordedPath('/home/alice/in.pth', '/home/bob/out')).toBe('in.pth');
    expect(recordedPath('/Users/alice/in.pth', '/Users/Shared')).toBe('in.pth');
    expect(recordedPath(path.join(home, 'in.pth'), path.join(path.dirname(home), 'x/y'))).toBe('in.pth');
    expect(relativeRecord('/data/mine/in.pth', '/results/out')).toBe(null);
  });

  it('keeps the places of files inside of a folder', () => {
    const unit = {
      path: '/models/sd15',
      files: ['/models/sd15/unet/a.safetensors', '/cache/blob.safetensors'],
    };
    expect(recordedFiles(unit, '/results/out')).toEqual({
      path: 'sd15',
      files: ['sd15/unet/a.safetensors', 'blob.safetensors'],
    });
    expect(recordedFiles({ path: '/a/b.pth', files: ['/a/b.pth'] }, '/a')).toEqual({
      path: 'b.pth',
      files: ['b.pth'],
    });
  });

  it('is looked for in every folder, an absolute one where it says', () => {
    expect(placesOf('../c/a.pth', ['/x/out', '/y'])).toEqual(['/x/c/a.pth', '/c/a.pth']);
    expect(placesOf('/old/a.pth', ['/x/out'])).toEqual(['/old/a.pth']);
  });
});
