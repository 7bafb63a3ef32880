/** The program as a process: what full disks and read-only folders leave behind. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sshsHashes } from '../../src/adapters/metadata.ts';
import { packageRoot } from '../../src/package-root.ts';
import { builtProgram } from '../support/built-program.ts';
import { writeSmallBase } from '../support/small-base.ts';

const root = packageRoot();
let program: string;
const concepts = path.join(root, 'fixtures/tiny-world/concepts');
const smiley = path.join(concepts, 'edlora_smiley.pth');
let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-process-'));
  await writeSmallBase(at('base'));
  program = builtProgram();
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => path.join(folder, name);

function edlora(...argv: string[]): { status: number | null; stderr: string } {
  return spawnSync(process.execPath, [program, ...argv], { encoding: 'utf8' });
}

describe('targets that cannot be written', () => {
  const merge = (out: string): string[] => [
    'merge',
    smiley,
    smiley,
    '--drop',
    '--quiet',
    '--force',
    '--out',
    out,
  ];

  it('a file larger than allowed leaves what stood there', () => {
    const out = at('limited.safetensors');
    expect(edlora(...merge(out)).status).toBe(0);
    const before = readFileSync(out);
    // 8 KiB for any file.
    const line = ['ulimit -f 8', `exec "$0" "$@"`].join('; ');
    const { status, stderr } = spawnSync('bash', ['-c', line, process.execPath, program, ...merge(out)], {
      encoding: 'utf8',
    });
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /limited\.safetensors: cannot be written: larger than this disk, or the limit of this session/,
    );
    expect(readFileSync(out)).toEqual(before);
    expect(readdirSync(folder).filter((name) => name.includes('limited'))).toEqual(['limited.safetensors']);
  });

  const tmpfs = (place: string, options: string): boolean =>
    spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', place]).status === 0;

  it('a full disk leaves nothing', ({ skip }) => {
    const disk = at('disk');
    mkdirSync(disk);
    if (!tmpfs(disk, 'size=64k')) skip('mounting needs rights');
    try {
      const { status, stderr } = edlora(...merge(path.join(disk, 'a.safetensors')));
      expect(status).toBe(1);
      expect(stderr).toContain('the disk is full; a file that stood there before is unchanged');
      expect(readdirSync(disk)).toEqual([]);
    } finally {
      spawnSync('umount', [disk]);
    }
  });

  it('a disk that fills up during training keeps the last good state, and the run goes on from it', async ({
    skip,
  }) => {
    const train = (out: string): string[] => [
      ...[
        'train',
        '--base',
        at('base'),
        '--data',
        path.join(concepts, 'smiley'),
        '--resolution',
        '32',
        '--batch',
        '1',
        '--threads',
        '1',
      ],
      ...['--token', '<toy>', '--init', 'circle', '--rank', '1', '--steps', '4', '--save-every', '2'],
      ...['--resume', '--out', out],
    ];
    const whole = at('whole.safetensors');
    expect(edlora(...train(whole)).status).toBe(0);
    const disk = at('small-disk');
    mkdirSync(disk);
    // Room for one state, not for a second beside it.
    const size = 1.5 * statSync(at('whole.state.safetensors')).size;
    if (!tmpfs(disk, `size=${Math.ceil(size)}`)) skip('mounting needs rights');
    const state = path.join(disk, 'cut.state.safetensors');
    try {
      const { status, stderr } = edlora(...train(path.join(disk, 'cut.safetensors')));
      expect(status, stderr).toBe(1);
      expect(stderr).toContain('the disk is full; a file that stood there before is unchanged');
      // The last state and, as another name of it, the one before the next.
      expect(readdirSync(disk)).toEqual(['cut.state.previous.safetensors', path.basename(state)]);
      copyFileSync(state, at('cut.state.safetensors'));
    } finally {
      spawnSync('umount', [disk]);
    }
    const { status, stderr } = edlora(...train(at('cut.safetensors')));
    expect(status, stderr).toBe(0);
    const { modelHash } = await sshsHashes(whole);
    expect((await sshsHashes(at('cut.safetensors'))).modelHash).toBe(modelHash);
  });

  it('a read-only folder is named', ({ skip }) => {
    const place = at('read-only');
    mkdirSync(place);
    const isRoot = process.getuid?.() === 0;
    if (isRoot && !tmpfs(place, 'ro'))
      skip('permissions do not bind the superuser, and mounting needs rights');
    if (!isRoot) chmodSync(place, 0o555);
    try {
      for (const argv of [
        merge(path.join(place, 'a.safetensors')),
        ['resize', smiley, '--rank', '2', '--drop', '--quiet', '--out', path.join(place, 'a.safetensors')],
        [
          'bake',
          '--base',
          path.join(root, 'fixtures/tiny-world/model'),
          '--loras',
          smiley,
          '--drop',
          '--quiet',
          '--out',
          path.join(place, 'tuned'),
        ],
      ]) {
        const { status, stderr } = edlora(...argv);
        expect(status, stderr).toBe(1);
        expect(stderr).toMatch(/read-only\S*: .*no permission to write in its folder\n$/);
      }
      expect(readdirSync(place)).toEqual([]);
    } finally {
      if (isRoot) spawnSync('umount', [place]);
      else chmodSync(place, 0o755);
    }
  });
});
