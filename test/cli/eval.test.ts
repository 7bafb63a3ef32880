/** `edlora eval` from arguments to a report, on the shipped miniature with few steps. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import type { EvaluationReport } from '../../src/evaluation/evaluation-report.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';

const concepts = path.join(packageRoot(), 'fixtures/tiny-world/concepts');
const file = (name: string): string => path.join(concepts, `edlora_${name}.pth`);
const smiley = ['--concept', file('smiley'), '--reference', path.join(concepts, 'smiley')];
let folder: string;
let prompts: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-eval-'));
  prompts = path.join(folder, 'prompts.txt');
  writeFileSync(prompts, 'photo of a <TOK>\na <TOK> on a blue background\n');
});
afterAll(() => rmSync(folder, { recursive: true }));

async function evaluate(argv: readonly string[]) {
  const io = fakeIo();
  const code = await run(['eval', ...argv], io);
  return { code, ...io.written };
}

/** Two quick runs, which the tests look at from several sides. */
const quick = (out: string): string[] => [
  ...smiley,
  '--prompts',
  prompts,
  '--count',
  '2',
  '--steps',
  '2',
  '--guidance',
  '4',
  '--out',
  path.join(folder, out),
];

describe('eval', () => {
  it('ends with a table of scores and the place of the report', async () => {
    const result = await evaluate([
      ...quick('a'),
      '--class',
      'circle',
      '--with',
      file('bullseye'),
      '--sum',
      '0.5',
    ]);
    expect(result.code).toBe(0);
    expect(result.out).toMatch(/single\s+0\.\d{3}\s+0\.\d{3} … 0\.\d{3}/);
    expect(result.out).toMatch(/\nsum 0\.5 .*\nbase /);
    expect(result.out).toMatch(/16 pictures scored at \d+ a second/);
    expect(result.out.split('\n').every((line) => line.startsWith('Report') || line.length <= 80)).toBe(true);
    expect(result.err).toMatch(/drawing: base \(5\/6, [\d.]+ s left\)\n/);
    const report = JSON.parse(readFileSync(path.join(folder, 'a/report.json'), 'utf8')) as EvaluationReport;
    expect(report.attention!.prompt).toBe('photo of a <smiley1> <smiley2>');
    expect(report.density![0]!.embeddings).toHaveLength(2);
    const again = await evaluate(quick('a'));
    expect(again).toMatchObject({ code: 2, out: '' });
    expect(again.err).toContain('--force');
  });

  it('prints one JSON document; puts runs side by side', async () => {
    const result = await evaluate([...quick('b'), '--no-attention', '--json', '--quiet']);
    expect(result.err).toBe('');
    const { report } = JSON.parse(result.out) as { report: EvaluationReport };
    expect(report.attention).toBeNull();
    const reports = ['a', 'b'].map((name) => path.join(folder, name, 'report.json'));
    const compared = await evaluate(['--compare', ...reports, '--out', path.join(folder, 'both')]);
    expect(compared.code).toBe(0);
    expect(compared.out.match(/report\.json\s+(single|sum 0\.5|base)/g)).toHaveLength(4);
    expect(readFileSync(path.join(folder, 'both/compare.html'), 'utf8')).toContain('same settings');
  });

  it('plans without drawing or writing', async () => {
    const argv = [...smiley, '--class', 'circle', '--prompts', 'style', '--dry-run'];
    const result = await evaluate(argv);
    expect(result.code).toBe(0);
    expect(result.out).toContain('100 pictures, 50 by each model, of 20 prompts');
    expect(result.out).toMatch(/base\s+circle\s+the base model/);
    const json = JSON.parse((await evaluate([...argv, '--json'])).out) as { models: object[] };
    expect(json.models).toHaveLength(2);
  });

  it('names what is wrong before it draws', async () => {
    const cases: [string[], number, string][] = [
      [[], 2, 'expected --concept and --reference'],
      [[...smiley, '--style-mix', 'one'], 2, '--style-mix: expected two prompts, got 1'],
      [[...smiley, '--sum', '1'], 2, 'name them with --with'],
      [[...smiley, '--count', 'many'], 2, '--count: expected a number, got "many"'],
      [[...smiley, '--prompts', 'nothing'], 2, 'expected one of object, character, style, scene'],
      [[...smiley, '--clip', concepts], 3, 'no such file'],
      [[...smiley, '--fused', folder], 3, 'expected a fusion'],
      [[...smiley, '--sampler', 'best', '--dry-run'], 2, 'sampler: expected one of'],
      [[...smiley, '--width', '3', '--dry-run'], 2, 'width: expected a multiple of 4'],
      [[...smiley, '--fused', 'a', 'b'], 2, 'two folders are called "fused"'],
      [['--concept', file('smiley'), '--reference', folder], 3, 'expected PNG, JPEG or WebP'],
      [['--compare', prompts], 3, 'expected JSON, got text that is none'],
    ];
    for (const [argv, code, message] of cases) {
      const result = await evaluate([...argv, '--out', path.join(folder, 'never')]);
      expect(result.err).toContain(message);
      expect(result.code).toBe(code);
    }
  });
});
