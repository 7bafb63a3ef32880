/** `--no-mmap`: every command that runs networks gives the same bytes with its weights read into memory. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { run } from '../../cli/run.ts';
import { readPicture } from '../../src/formats/picture.ts';
import { packageRoot } from '../../src/package-root.ts';
import * as mapping from '../../src/runtime/onnxruntime/weight-mapping.ts';
import { fakeIo } from '../support/fake-io.ts';
import { smallFusion } from '../support/small-fusion.ts';

vi.mock('../../src/runtime/onnxruntime/weight-mapping.ts', { spy: true });

const concepts = path.join(packageRoot(), 'fixtures/tiny-world/concepts');
const smiley = path.join(concepts, 'edlora_smiley.pth');
let folder: string;
let base: string;
let toy: string;
beforeAll(async () => {
  const small = await smallFusion();
  base = small.base.path;
  toy = small.concepts.maple;
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-no-mmap-'));
  for (const name of ['mapped', 'read']) mkdirSync(path.join(folder, name));
  writeFileSync(path.join(folder, 'prompts.txt'), 'photo of a <TOK>\n');
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A command's result both ways, and whether anything was mapped. */
async function bothWays(argv: (out: string) => string[], read: (out: string) => unknown): Promise<void> {
  const results: unknown[] = [];
  for (const name of ['mapped', 'read']) {
    const asked = vi.mocked(mapping.weightsAreMapped).mockClear();
    const out = path.join(folder, name, argv('')[0]!);
    const io = fakeIo();
    const code = await run([...argv(out), ...(name === 'read' ? ['--no-mmap'] : [])], io);
    expect(code, io.written.err).toBe(0);
    // Asked for every graph that is loaded; what follows from the answer is the runtime's own test.
    const answers = asked.mock.results.map(({ value }) => value);
    expect(answers.length).toBeGreaterThan(0);
    expect(new Set(answers)).toEqual(new Set([name === 'mapped']));
    results.push(await read(out));
  }
  expect(results[1]).toEqual(results[0]);
}

const QUICK = ['--steps', '1', '--runs', '1'];

it('fuse', () =>
  bothWays(
    (out) => [
      'fuse',
      '--base',
      base,
      '--concepts',
      toy,
      ...QUICK,
      '--stages',
      'spatial',
      '--no-cache',
      '--out',
      out,
    ],
    (out) => readFileSync(path.join(out, 'lora.safetensors')),
  ));

it('collect', () =>
  bothWays(
    (out) => ['collect', toy, '--base', base, ...QUICK, '--out', `${out}.safetensors`],
    (out) => readFileSync(`${out}.safetensors`),
  ));

it('sample', () =>
  bothWays(
    (out) => [
      'sample',
      '--base',
      base,
      '--concepts',
      toy,
      '--prompt',
      'a <maple1> <maple2>',
      '--steps',
      '1',
      '--out',
      out,
    ],
    async (out) => (await readPicture(path.join(out, '0000.png'))).data,
  ));

it('train', () =>
  bothWays(
    (out) => [
      ...['train', '--base', base, '--data', path.join(concepts, 'smiley'), '--steps', '1', '--batch', '1'],
      ...['--resolution', '32', '--token', '<a>+<b>', '--init', '<rand-0.013>+circle'],
      ...['--out', `${out}.safetensors`],
    ],
    (out) => readFileSync(`${out}.safetensors`),
  ));

it('eval', () =>
  bothWays(
    (out) => [
      ...['eval', '--concept', smiley, '--reference', path.join(concepts, 'smiley')],
      ...['--prompts', path.join(folder, 'prompts.txt'), '--count', '1', '--steps', '1', '--out', out],
    ],
    (out) => {
      const report = readFileSync(path.join(out, 'report.json'), 'utf8');
      return (JSON.parse(report) as { variants: object[] }).variants;
    },
  ));
