/** `edlora train` from its command line to files, and what it says of mistakes. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-cli-train-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});
const data = path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley');
const small = ['--data', data, '--steps', '2', '--batch', '1', '--threads', '1', '--resolution', '32'];
const words = ['--token', '<face-a>+<face-b>', '--init', '<rand-0.013>+circle'];
const train = async (...args: string[]) => {
  const io = fakeIo();
  return { code: await run(['train', ...args], io), ...io.written };
};

describe('train', () => {
  it('writes the concept, its settings and a plot, and refuses to write over them', async () => {
    const out = path.join(folder, 'face.pth');
    const { code, out: said, err } = await train(...small, ...words, '--out', out);
    expect(err).toMatch(/encoding pictures/);
    expect(code).toBe(0);
    expect(said).toMatch(/ED-LoRA: <face-a> <face-b>, 140 layers from 10 pictures/);
    expect((await loadConcept(out)).tokens.map(({ word }) => word)).toEqual(['<face-a>', '<face-b>']);
    for (const name of ['face.train.json', 'face.loss.svg', 'face.state.safetensors']) {
      expect(existsSync(path.join(folder, name)), name).toBe(true);
    }
    expect((await train(...small, ...words, '--out', out)).err).toMatch(
      /exists; choose another name, or --force/,
    );
  });

  it('refuses a base of another prediction before it reads a picture', async () => {
    const { code, err } = await train(
      ...small,
      ...words,
      '--prediction',
      'sample',
      '--out',
      path.join(folder, 'x0.pth'),
    );
    expect(code).toBe(2);
    expect(err).toMatch(/^error: .*: expected a base that predicts noise or v, got sample\n$/);
  });

  it('prints a line of JSON per step', async () => {
    const out = path.join(folder, 'json.safetensors');
    const { code, out: said } = await train(...small, '--method', 'xti', ...words, '--out', out, '--json');
    expect(code).toBe(0);
    const lines = said
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.map(({ step }) => step)).toEqual([1, 2, undefined]);
    expect(lines[0]).toHaveProperty('rates.embedding', 5e-3);
    expect(lines.at(-1)).toHaveProperty('files.concept', out);
    // What people share says nothing of the machine's folders.
    const { metadata } = await openTensorFile(out);
    const settings = metadata.get('edlora.settings')!;
    const beside = readFileSync(path.join(folder, 'json.train.json'), 'utf8');
    for (const text of [settings, beside]) {
      expect(text).not.toContain(path.dirname(data));
      expect(text).not.toContain(`${tmpdir()}${path.sep}`);
    }
  });

  it('says what is wrong with options', async () => {
    expect(await train(...words)).toMatchObject({ code: 2, err: expect.stringContaining('expected --data') });
    expect(await train(...small, ...words, '--rank', 'four')).toMatchObject({
      code: 2,
      err: expect.stringContaining('--rank: expected a number, got "four"'),
    });
    expect((await train(...small, ...words, '--kv-drop', '2')).err).toContain('--kv-drop');
    expect((await train(...small, ...words, '--lr-unett', '2')).err).toContain('did you mean --lr-unet?');
    expect((await train(...small, ...words, '--out', path.join(folder, 'x.bin'))).err).toContain(
      '.safetensors or .pth',
    );
    expect((await train('--data', path.join(folder, 'none'), ...words)).code).toBe(2);
  });

  it('prints the schema of its settings files', async () => {
    const { out } = await train('--print-schema');
    expect(JSON.parse(out)).toEqual(
      JSON.parse(readFileSync(path.join(packageRoot(), 'docs/train.schema.json'), 'utf8')),
    );
  });
});
