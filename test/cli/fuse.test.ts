/** `edlora fuse` from arguments to files, on the shipped miniature with few steps. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';

const concept = (name: string): string =>
  path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`);
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

async function fuse(argv: readonly string[], settings = {}, program = 'edlora') {
  const io = fakeIo(settings);
  const code = await run(program === 'edlora' ? ['fuse', ...argv] : argv, io, { program });
  return { code, ...io.written };
}

describe('fuse', () => {
  it('ends with a table of what was kept and where the files are, within 80 columns', async () => {
    const out = path.join(folder, 'two');
    const result = await fuse(
      ['--concepts', concept('smiley'), concept('bullseye'), '--steps', '1', '--out', out],
      {},
      'fuse',
    );
    expect(result.code).toBe(0);
    expect(result.out).toMatch(/<smiley1> <smiley2>\s+edlora_smiley\.pth\s+140\s+\d+ %\s+\d+ %\s+\d+ %/);
    expect(result.out).toContain('lora.safetensors');
    expect(readdirSync(out).sort()).toEqual([
      'embeddings.safetensors',
      'lora.safetensors',
      'recipe.json',
      'report.json',
    ]);
    expect(result.err).toMatch(/spatial: collecting <smiley1> <smiley2> \(\d+\/\d+, [\d.]+ s left\)\n/);
    expect(result.err).not.toContain('\x1b');
    const again = await fuse(['--concepts', concept('smiley'), '--out', out]);
    expect(again).toMatchObject({ code: 2, out: '' });
    expect(again.err).toContain('--force');
  });

  it('prints one JSON document', async () => {
    const out = path.join(folder, 'json');
    const argv = ['--concepts', concept('smiley'), '--stages', 'cross', '--out', out, '--json', '--quiet'];
    const result = await fuse(argv);
    expect(result.err).toBe('');
    const { report, files } = JSON.parse(result.out) as { report: { concepts: object[] }; files: object[] };
    expect([report.concepts.length, files.length]).toEqual([1, 4]);
  });

  it('redraws one line on a terminal, in colour only if wanted', async () => {
    const argv = [
      '--concepts',
      concept('smiley'),
      '--stages',
      'cross',
      '--force',
      '--out',
      path.join(folder, 'tty'),
    ];
    const plain = await fuse(argv, { interactive: true });
    expect(plain.err).toContain('\r\x1b[2K');
    expect(plain.err).not.toContain('\x1b[36m');
    expect((await fuse(argv, { interactive: true, colour: true })).err).toContain('\x1b[36m');
  });

  it('plans without writing', async () => {
    const out = path.join(folder, 'planned');
    const list = path.join(packageRoot(), 'fixtures/tiny-world/concepts/concepts.json');
    const result = await fuse([
      '--config',
      list,
      '--strength',
      '-0.5',
      '1',
      '1e-3',
      '1',
      '--dry-run',
      '--out',
      out,
    ]);
    expect(result.code).toBe(0);
    expect(result.out).toMatch(/<smiley1> <smiley2>.*-0\.5\s+12\s+32\s+96/);
    expect(result.out.split('\n').every((text) => [...text].length <= 80)).toBe(true);
    expect(readdirSync(folder)).not.toContain('planned');
    const json = await fuse([
      '--config',
      list,
      '--dry-run',
      '--json',
      '--preset',
      'mix-of-show',
      '--out',
      out,
    ]);
    const plan = JSON.parse(json.out) as { options: { preserve: object }; concepts: object[] };
    expect(plan.concepts).toHaveLength(4);
    expect(plan.options.preserve).toEqual({ text: 0, cross: 0, spatial: 0 });
  });

  it('renames words, so that one file can take part twice', async () => {
    const argv = ['--concepts', concept('smiley'), concept('smiley'), '--dry-run', '--json'];
    const refused = await fuse(argv);
    expect(refused.code).toBe(2);
    expect(refused.err).toContain('--rename <smiley1>=');
    const renamed = await fuse([...argv, '--rename', '<smiley1>=<a1>', '<smiley2>=<a2>']);
    const { concepts } = JSON.parse(renamed.out) as { concepts: { name: string }[] };
    expect(concepts.map(({ name }) => name)).toEqual(['<a1> <a2>', '<smiley1> <smiley2>']);
    const unused = await fuse([...argv, '--rename', '<nobody>=<x>']);
    expect(unused.err).toContain('nothing is called <nobody>');
  });

  it('names what is wrong with an input before any work', async () => {
    const bad = path.join(folder, 'page.safetensors');
    writeFileSync(bad, '<!DOCTYPE html><html><body>404</body></html>');
    const result = await fuse(['--concepts', bad]);
    expect(result.code).toBe(3);
    expect(result.err).toContain('web page');
    const strengths = await fuse(['--concepts', concept('smiley'), '--strength', '1', '2', '3']);
    expect(strengths).toMatchObject({ code: 2 });
    expect(strengths.err).toContain('expected one number, or 1 for 1 concepts, got 3');
    expect((await fuse(['--concepts', concept('smiley'), '--base', folder])).code).toBe(3);
  });

  it('keeps the recipe of what it did', async () => {
    const recipe = JSON.parse(readFileSync(path.join(folder, 'two', 'recipe.json'), 'utf8')) as {
      options: { steps: number };
      concepts: { words: string[] }[];
    };
    expect(recipe.options.steps).toBe(1);
    expect(recipe.concepts.flatMap(({ words }) => words)).toEqual([
      '<smiley1>',
      '<smiley2>',
      '<bullseye1>',
      '<bullseye2>',
    ]);
  });
});
