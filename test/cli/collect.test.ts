/** Statistics on the command line: collected once, used by later fusions, which can be extended and made again. */
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-collect-'));
  for (const name of ['smiley', 'bullseye']) {
    copyFileSync(
      path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`),
      path.join(folder, `${name}.pth`),
    );
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

async function edlora(...argv: string[]) {
  const io = fakeIo({});
  const code = await run(argv, io);
  return { code, ...io.written };
}
const at = (name: string): string => path.join(folder, name);
const QUICK = ['--steps', '1', '--runs', '1'];

describe('collect', () => {
  it('writes a file beside the concept, which fuse then uses, and does not write over it', async () => {
    const collected = await edlora('collect', at('smiley.pth'), ...QUICK);
    expect(collected).toMatchObject({ code: 0 });
    expect(collected.out).toMatch(
      /^<smiley1> <smiley2>: .*smiley\.stats\.safetensors, \d+ kB, in [\d.]+ s\n$/,
    );
    expect(collected.err).toMatch(/spatial: collecting <smiley1> <smiley2> \(3\/3\)/);
    const fused = await edlora('fuse', '--concepts', at('smiley.pth'), ...QUICK, '--out', at('one'));
    expect(fused.out).toMatch(/of which features [\d.]+ s \(1 of 1 concepts were stored\)/);
    const { statistics } = JSON.parse(readFileSync(at('one/report.json'), 'utf8')) as {
      statistics: string[];
    };
    expect(statistics).toEqual(['../smiley.stats.safetensors']);
    const again = await edlora('collect', at('smiley.pth'), ...QUICK);
    expect(again).toMatchObject({ code: 2 });
    expect(again.err).toContain('--force to replace it');
  });

  it('says when the file beside a concept was collected in another way', async () => {
    const fused = await edlora(
      'fuse',
      '--concepts',
      at('smiley.pth'),
      '--steps',
      '2',
      '--runs',
      '1',
      '--out',
      at('other'),
    );
    expect(fused.out).toMatch(
      /note: .*smiley\.stats\.safetensors was collected with other options: left aside/,
    );
  });

  it('refuses what cannot be, before any network runs', async () => {
    for (const [argv, said] of [
      [['--steps', '0'], 'steps: expected a whole number from 1 to 1000, got 0'],
      [['--width', '64'], '--width and --height: expected both of them'],
      [['--prompt', 'no place'], 'prompt templates: expected at least one, each with {}'],
      [['--out', 'x.bin'], '--out: expected a name that ends with .safetensors'],
    ] as const) {
      const result = await edlora('collect', at('bullseye.pth'), ...argv);
      expect(result).toMatchObject({ code: 2, out: '' });
      expect(result.err).toContain(said);
    }
    expect(existsSync(at('bullseye.stats.safetensors'))).toBe(false);
  });
});

describe('fuse --extend', () => {
  it('adds concepts to an earlier fusion under its options; verify makes both again', async () => {
    await edlora(
      'fuse',
      '--concepts',
      at('smiley.pth'),
      ...QUICK,
      '--ridge',
      'spatial=0.05',
      '--out',
      at('first'),
    );
    const both = await edlora(
      'fuse',
      '--extend',
      at('first'),
      '--concepts',
      at('bullseye.pth'),
      '--out',
      at('second'),
    );
    expect(both).toMatchObject({ code: 0 });
    const recipe = JSON.parse(readFileSync(at('second/recipe.json'), 'utf8')) as {
      options: { steps: number; ridge: unknown };
      concepts: { name: string }[];
    };
    expect(recipe.options).toMatchObject({ steps: 1, ridge: { text: 0.1, cross: 0.1, spatial: 0.05 } });
    expect(recipe.concepts.map(({ name }) => name)).toEqual([
      '<smiley1> <smiley2>',
      '<bullseye1> <bullseye2>',
    ]);
    const verified = await edlora('verify', at('second'));
    expect(verified).toMatchObject({ code: 0 });
    expect(verified.out).toContain('made again alike: right');
    const nothing = await edlora('fuse', '--extend', at('nowhere'), '--out', at('third'));
    expect(nothing).toMatchObject({ code: 3, out: '' });
    expect(nothing.err).toContain('recipe.json: expected the recipe of a fusion, got nothing: no such file');
  });
});
