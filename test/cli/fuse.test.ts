/** `edlora fuse` from arguments to files, on the shipped miniature with few steps. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fusionNotes } from '../../cli/fusion/result.ts';
import { run } from '../../cli/run.ts';
import { writeLora } from '../../src/concepts/lora-file.ts';
import { DEFAULTS, PRESETS } from '../../src/fusion/options.ts';
import type { FusionReport } from '../../src/fusion/report/report.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';
import { goldenPath } from '../support/goldens.ts';

const concept = (name: string): string =>
  path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`);
const list = path.join(packageRoot(), 'fixtures/tiny-world/concepts/concepts.json');
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
    const prediction = ['--prediction', 'v_prediction'];
    const result = await fuse(
      ['--concepts', concept('smiley'), concept('bullseye'), '--steps', '1', '--out', out, ...prediction],
      {},
      'fuse',
    );
    expect(result.code).toBe(0);
    expect(result.out).toMatch(
      /<smiley1> <smiley2>\s+edlora_smiley\.pth\s+4\s+140\s+\d+ %\s+\d+ %\s+\d+ %\n/,
    );
    expect(result.out).toMatch(/spatial\s+96\s+[\d.]+ times\s+[\d.]+ s\n/);
    // The longest concept of the two rows stands in full, and no line is wider than a terminal except notes.
    const lines = result.out.split('\n').filter((line) => !line.startsWith('note:'));
    expect(lines.filter((line) => [...line].length > 100)).toEqual([]);
    expect(result.out).toContain('lora.safetensors');
    expect(readdirSync(out).sort()).toEqual([
      'embeddings.safetensors',
      'lora.safetensors',
      'recipe.json',
      'report.html',
      'report.json',
    ]);
    expect(result.err).toMatch(/spatial: collecting <smiley1> <smiley2>, step 1 of 1 \(\d+\/\d+\)\n/);
    expect(result.err).not.toContain('\x1b');
    const again = await fuse(['--concepts', concept('smiley'), '--out', out]);
    expect(again).toMatchObject({ code: 2, out: '' });
    expect(again.err).toContain('--force');
  });

  it('prints one JSON document', async () => {
    const out = path.join(folder, 'json');
    const argv = ['--concepts', concept('smiley'), '--stages', 'cross', '--out', out, '--json', '--quiet'];
    const result = await fuse([...argv, '--rank-share', '0.9']);
    expect(result.err).toBe('note: --rank-share has no effect without --rank auto\n');
    const document = JSON.parse(result.out) as {
      report: { concepts: object[] };
      files: object[];
      concepts: { words: string[]; rank: string }[];
    };
    expect([document.report.concepts.length, document.files.length]).toEqual([1, 5]);
    expect(document.concepts).toMatchObject([{ words: ['<smiley1>', '<smiley2>'], rank: '4' }]);
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
    expect(result.out).toContain(
      '2 denoising runs of 20 steps a concept, guidance 4, contrast 2.5, seed 0\n',
    );
    expect(result.out).toMatch(
      /^\d+ denoising steps of [\d.]+ s(, \d+ more are kept)?; about .+ in all, .+B of memory$/m,
    );
    expect(result.err).toBe('');
    const flow = path.join(folder, 'flow');
    cpSync(defaultBase(), flow, { recursive: true });
    const scheduler = path.join(flow, 'scheduler', 'scheduler_config.json');
    writeFileSync(scheduler, '{ "_class_name": "FlowMatchEulerDiscreteScheduler" }');
    const refused = await fuse(['--config', list, '--base', flow, '--dry-run']);
    expect(refused).toMatchObject({ code: 3, out: '' });
    expect(refused.err).toContain('FlowMatchEulerDiscreteScheduler');
    const json = await fuse([
      '--config',
      list,
      '--dry-run',
      '--json',
      '--preset',
      'mix-of-show',
      '--contrast',
      '3',
      '--rank-share',
      '0.9',
      '--out',
      out,
    ]);
    const plan = JSON.parse(json.out) as {
      options: { preserve: object };
      concepts: object[];
      estimate: object;
      notes: string[];
    };
    expect(plan.estimate).toMatchObject({ passes: 4 * 20, keptPasses: 0, elapsedMs: expect.any(Number) });
    expect(plan.concepts).toHaveLength(4);
    expect(plan.notes).toEqual([
      '--contrast has no effect without guidance above 1: there is no empty prompt to weigh against',
      '--rank-share has no effect without --rank auto',
    ]);
    expect(plan.options.preserve).toEqual({ text: 0, cross: 0, spatial: 0 });
    const idle = await fuse([
      '--config',
      list,
      '--dry-run',
      '--guidance',
      '1',
      '--iterations',
      '9',
      '--contrast',
      '3',
      '--port-steps',
      '3',
    ]);
    expect(idle.out).toContain('a concept, no guidance, seed 0\n');
    expect(idle.out.match(/^note: --([\w-]+) has no effect/gm)).toEqual([
      'note: --contrast has no effect',
      'note: --iterations has no effect',
      'note: --port-steps has no effect',
    ]);
    const never = await fuse(['--config', list, '--portable', '--port-rank', '0', '--dry-run']);
    expect(never).toMatchObject({ code: 2, err: expect.stringContaining('rank: expected a whole number') });
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

  it('names a LoRA that has no words of its own, and renames words of a list', async () => {
    const lora = path.join(folder, 'style.safetensors');
    await writeLora(lora, [
      {
        component: 'unet',
        layerName: 'mid_block.attentions.0.transformer_blocks.0.attn1.to_q',
        up: new Float32Array(64).fill(0.01),
        down: new Float32Array(64).fill(0.01),
        rank: 1,
        kernel: null,
      },
    ]);
    const argv = ['--concepts', lora, '--config', list, '--dry-run', '--json'];
    const result = await fuse([
      ...argv,
      '--name',
      'style.safetensors=oil paint',
      '--rename',
      '<smiley1>=<a>',
    ]);
    const { concepts } = JSON.parse(result.out) as { concepts: { name: string; format: string }[] };
    expect(concepts.map(({ name }) => name).slice(0, 2)).toEqual(['oil paint', '<a> <smiley2>']);
    expect(concepts[0]!.format).toBe('kohya');
    const unknown = await fuse([...argv, '--name', 'other.safetensors=x']);
    expect(unknown).toMatchObject({ code: 2 });
    expect(unknown.err).toContain('other.safetensors');
  });

  it('takes what was given before the preset, and the preset before the defaults', async () => {
    const argv = ['--concepts', concept('smiley'), '--dry-run', '--json', '--preset', 'mix-of-show'];
    const result = await fuse([...argv, '--ridge', 'cross=0.5', '--stages', 'cross,spatial', '--seed', '-3']);
    const { options } = JSON.parse(result.out) as { options: object };
    expect(options).toMatchObject({
      ridge: { ...PRESETS['mix-of-show'].ridge, cross: 0.5 },
      preserve: PRESETS['mix-of-show'].preserve,
      stages: ['cross', 'spatial'],
      steps: DEFAULTS.steps,
      seed: -3,
    });
  });

  it('stops when interrupted, with code 130 and nothing written', async () => {
    const controller = new AbortController();
    const io = fakeIo();
    const out = path.join(folder, 'interrupted');
    const stopping = {
      ...io,
      err: (text: string) => {
        io.err(text);
        if (text.startsWith('spatial')) controller.abort(new Error('stop'));
      },
    };
    const argv = ['fuse', '--concepts', concept('smiley'), '--steps', '2', '--out', out];
    expect(await run(argv, stopping, { signal: controller.signal })).toBe(130);
    expect(io.written.out).toBe('');
    expect(io.written.err).toMatch(
      /error: interrupted; features collected so far are kept: the same line goes on from them\n$/,
    );
    expect(readdirSync(folder)).not.toContain('interrupted');
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
    const single = goldenPath('goldens/tiny-random/single_file.safetensors');
    const whole = await fuse(['--concepts', concept('smiley'), '--base', single, '--checkpoint']);
    expect(whole).toMatchObject({ code: 2, out: '' });
    expect(whole.err).toContain('needs a diffusers folder');
    const misfit = await fuse(['--concepts', goldenPath('goldens/tiny-random/edlora.pth'), '--dry-run']);
    expect(misfit).toMatchObject({ code: 3, out: '' });
    expect(misfit.err).toMatch(/edlora\.pth.*tiny-world/);
  });

  it('keeps the recipe of what it did', async () => {
    const recipe = JSON.parse(readFileSync(path.join(folder, 'two', 'recipe.json'), 'utf8')) as {
      base: { prediction: string };
      options: { steps: number };
      concepts: { words: string[] }[];
    };
    expect(recipe.base.prediction).toBe('v_prediction');
    expect(recipe.options.steps).toBe(1);
    expect(recipe.concepts.flatMap(({ words }) => words)).toEqual([
      '<smiley1>',
      '<smiley2>',
      '<bullseye1>',
      '<bullseye2>',
    ]);
  });
});

const NONE = { text: null, cross: null, spatial: null };

describe('notes', () => {
  const report = (kept: number, largestChange: number): FusionReport => ({
    concepts: [
      {
        name: '<a>',
        file: '/a.pth',
        kept: { text: 0.9, cross: kept, spatial: null },
        baselines: { average: NONE, sum: NONE },
        worst: { layerName: 'mid.to_k', kept },
      },
    ],
    stages: [
      {
        stage: 'cross',
        layers: 1,
        method: 'normal',
        ridge: 0,
        preserve: 0,
        choices: { ridge: null, preserve: null },
        largestChange,
        elapsedMs: 1,
      },
    ],
    layers: [],
    collisions: [[1]],
    statistics: ['collected'],
    refinement: null,
    collectMs: 0,
    preservedCaptions: 0,
    elapsedMs: 1,
    peakMemoryBytes: 1,
  });

  it('say what is off in words, and nothing otherwise', () => {
    expect(fusionNotes(report(0.5, 5))).toEqual([]);
    expect(fusionNotes(report(0.49, 5))).toEqual([
      expect.stringMatching(/^<a> kept little in cross; .*\(its worst layer: mid\.to_k\)$/),
    ]);
    expect(fusionNotes(report(0.5, 5.1))).toEqual([
      expect.stringContaining('cross: a layer changed 5.1 times'),
    ]);
  });
});
