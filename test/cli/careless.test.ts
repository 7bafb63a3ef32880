/** Commands used carelessly: results aimed at inputs, at users' folders, twice at once. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { readPicture } from '../../src/formats/picture.ts';
import { encodePng } from '../../src/formats/png.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';
import { goldenPath } from '../support/goldens.ts';

const world = path.join(packageRoot(), 'fixtures/tiny-world');
const random = goldenPath('goldens/tiny-random/model');
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-careless-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
const at = (...names: string[]): string => path.join(folder, ...names);

async function edlora(...argv: string[]) {
  const io = fakeIo();
  const code = await run(argv, io);
  return { code, ...io.written };
}

/** Every file below a folder with its hash. */
const snapshot = (place: string): Map<string, string> =>
  new Map(
    readdirSync(place, { recursive: true })
      .map((name) => path.join(place, String(name)))
      .filter((file) => statSync(file).isFile())
      .map((file) => [file, createHash('sha256').update(readFileSync(file)).digest('hex')]),
  );

describe('bake', () => {
  const place = (...names: string[]): string => at('bake', ...names);
  beforeAll(() => {
    mkdirSync(place('photographs'), { recursive: true });
    writeFileSync(place('photographs/1.jpg'), 'mine');
    cpSync(random, place('models/base'), { recursive: true });
    mkdirSync(place('loras'));
    copyFileSync(goldenPath('goldens/tiny-random/edlora.pth'), place('loras/a.pth'));
  });
  const bake = (out: string) =>
    edlora(
      'bake',
      '--base',
      place('models/base'),
      '--loras',
      place('loras/a.pth'),
      '--drop',
      '--quiet',
      '--force',
      '--out',
      out,
    );

  it('never deletes a folder of the user’s, nor one with an input in it', async () => {
    symlinkSync('models', place('link'));
    const before = snapshot(place());
    for (const out of [
      place(),
      place('models'),
      place('models/base'),
      place('models/base/copy'),
      place('models/base/../../loras'),
      place('loras'),
      place('photographs'),
      place('link'),
      place('link/base'),
    ]) {
      const { code, err } = await bake(out);
      expect(code, `${out}: ${err}`).toBe(2);
      expect(snapshot(place()), out).toEqual(before);
    }
  });

  it('replaces its own earlier folder, unless the user put a file there', async () => {
    const out = place('tuned');
    expect(await bake(out)).toMatchObject({ code: 0 });
    expect(await bake(out)).toMatchObject({ code: 0 });
    writeFileSync(place('tuned/unet/notes.txt'), 'mine');
    const { code, err } = await bake(out);
    expect(code).toBe(2);
    expect(err).toContain('holds unet/notes.txt, which this tool did not put there');
    expect(readFileSync(place('tuned/unet/notes.txt'), 'utf8')).toBe('mine');
    expect(readdirSync(place()).filter((name) => name.startsWith('.'))).toEqual([]);
  });
});

describe('fuse', () => {
  it('never overwrites an input that lies in its folder, and leaves no result of another fusion beside its own', async () => {
    const out = at('fused');
    const concepts = ['smiley', 'bullseye'].map((name) => path.join(world, 'concepts', `edlora_${name}.pth`));
    const quick = ['--steps', '1', '--preserve', '0', '--ridge', '0.01', '--quiet', '--out', out];
    const first = await edlora('fuse', '--concepts', ...concepts, ...quick);
    expect(first.code, first.err).toBe(0);
    const before = snapshot(out);
    const own = await edlora(
      'fuse',
      '--concepts',
      concepts[0]!,
      path.join(out, 'lora.safetensors'),
      '--name',
      `${out}/lora.safetensors=a toy`,
      ...quick,
      '--force',
    );
    expect(own.code).toBe(2);
    expect(own.err).toContain('lora.safetensors: is also an input; inputs are never changed');
    const extended = await edlora('fuse', '--extend', out, ...quick, '--force');
    expect(extended.code).toBe(2);
    expect(extended.err).toContain('recipe.json: is also an input');
    const others = await edlora('fuse', '--concepts', ...concepts, ...quick, '--format', 'peft', '--force');
    expect(others.code).toBe(2);
    expect(others.err).toContain('lora.safetensors: of an earlier fusion; this one writes none');
    expect(snapshot(out)).toEqual(before);
  });
});

describe('a single file', () => {
  const merge = (out: string, ...more: string[]) => {
    const smiley = path.join(world, 'concepts/edlora_smiley.pth');
    return edlora('merge', at('a.pth'), smiley, '--drop', '--quiet', '--out', out, ...more);
  };
  beforeAll(() => copyFileSync(path.join(world, 'concepts/edlora_bullseye.pth'), at('a.pth')));

  it('is not replaced through a spelling with folders that do not exist', async () => {
    writeFileSync(at('taken.safetensors'), 'mine');
    expect((await merge(`${folder}/nodir/../taken.safetensors`)).code).toBe(2);
    expect(readFileSync(at('taken.safetensors'), 'utf8')).toBe('mine');
    expect((await merge(`${folder}/nodir/../a.pth`, '--force')).err).toContain('inputs are never changed');
    expect(readFileSync(at('a.pth'))).toEqual(readFileSync(path.join(world, 'concepts/edlora_bullseye.pth')));
  });

  it('keeps its mode and a link to it; devices and pipes stay', async () => {
    writeFileSync(at('private.safetensors'), 'old');
    chmodSync(at('private.safetensors'), 0o600);
    symlinkSync('private.safetensors', at('link.safetensors'));
    expect(await merge(at('link.safetensors'), '--force')).toMatchObject({ code: 0 });
    expect(readlinkSync(at('link.safetensors'))).toBe('private.safetensors');
    expect(statSync(at('private.safetensors')).mode & 0o777).toBe(0o600);
    expect(statSync(at('private.safetensors')).size).toBeGreaterThan(1000);
    spawnSync('mkfifo', [at('pipe')]);
    for (const out of ['/dev/null', at('pipe')]) {
      const { code, err } = await merge(out, '--force');
      expect(code).not.toBe(0);
      expect(err).toContain('expected an ordinary file');
    }
    expect(lstatSync('/dev/null').isCharacterDevice()).toBe(true);
    expect(lstatSync(at('pipe')).isFIFO()).toBe(true);
  });
});

describe('sample', () => {
  const small = ['--base', random, '--prompt', 'a cat', '--width', '64', '--height', '64', '--quiet'];

  it('twice at once into one folder: every picture is kept', async () => {
    const out = at('together');
    const runs = await Promise.all(
      [0, 100].map((seed) =>
        edlora(
          'sample',
          ...small,
          '--steps',
          '1',
          '--count',
          '3',
          '--grid',
          '--json',
          '--seed',
          `${seed}`,
          '--out',
          out,
        ),
      ),
    );
    const files: string[] = [];
    for (const [i, { code, out: json, err }] of runs.entries()) {
      expect(code, err).toBe(0);
      const { pictures, grid } = JSON.parse(json) as {
        pictures: { file: string; seed: number }[];
        grid: string;
      };
      expect(pictures.map(({ seed }) => seed)).toEqual([0, 1, 2].map((n) => n + 100 * i));
      files.push(...pictures.map(({ file }) => file), grid);
      for (const { file, seed } of pictures) {
        expect(readFileSync(file, 'latin1'), file).toContain(`Seed: ${seed},`);
      }
    }
    expect(new Set(files).size).toBe(8);
    expect(readdirSync(out).length).toBe(8);
  });

  it('never touches a preview.png of the user’s', async () => {
    const out = at('previews');
    mkdirSync(out);
    const mine = await encodePng({ width: 1, height: 1, data: Uint8Array.of(1, 2, 3) });
    writeFileSync(path.join(out, 'preview.png'), mine);
    expect(await edlora('sample', ...small, '--steps', '1', '--out', out)).toMatchObject({ code: 0 });
    const refused = await edlora('sample', ...small, '--steps', '1', '--preview', '1', '--out', out);
    expect([refused.code, refused.err.includes('is no preview')]).toEqual([2, true]);
    expect(readFileSync(path.join(out, 'preview.png'))).toEqual(Buffer.from(mine));
    rmSync(path.join(out, 'preview.png'));
    expect(await edlora('sample', ...small, '--steps', '2', '--preview', '1', '--out', out)).toMatchObject({
      code: 0,
    });
    expect(existsSync(path.join(out, 'preview.png'))).toBe(false);
    expect((await readPicture(path.join(out, '0001.png'))).width).toBe(64);
  });
});

describe('train', () => {
  const data = path.join(world, 'concepts/smiley');
  const train = (...argv: string[]) =>
    edlora(
      'train',
      '--data',
      data,
      '--token',
      '<toy>',
      '--init',
      'circle',
      '--rank',
      '1',
      '--resolution',
      '32',
      '--batch',
      '1',
      '--steps',
      '2',
      '--quiet',
      ...argv,
    );

  it('does not start over the state of an earlier run, nor over its other files', async () => {
    writeFileSync(at('toy.state.safetensors'), 'days of work');
    const refused = await train('--out', at('toy.safetensors'));
    expect(refused.code).toBe(2);
    expect(refused.err).toContain('--resume goes on with it, --force starts anew');
    expect(readFileSync(at('toy.state.safetensors'), 'utf8')).toBe('days of work');
    writeFileSync(at('other.loss.svg'), 'mine');
    expect((await train('--out', at('other.safetensors'))).err).toContain('other.loss.svg: exists');
  });
});
