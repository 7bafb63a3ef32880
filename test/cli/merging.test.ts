/** The commands over adapters, from arguments to files, on the shipped miniature. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asTyped } from '../../cli/arguments.ts';
import { run } from '../../cli/run.ts';
import { loadAdapter } from '../../src/adapters/read.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import type { LintReport } from '../../src/merging/lint.ts';
import { packageRoot } from '../../src/package-root.ts';
import { attentionLayers, randomLycoris } from '../merging/random-adapters.ts';
import { fakeIo } from '../support/fake-io.ts';

const world = path.join(packageRoot(), 'fixtures/tiny-world');
const concept = (name: string): string => path.join(world, 'concepts', `edlora_${name}.pth`);
const [smiley, bullseye] = [concept('smiley'), concept('bullseye')];
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-merging-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => path.join(folder, name);

async function edlora(...argv: string[]) {
  const io = fakeIo();
  const code = await run(argv, io);
  return { code, ...io.written };
}

describe('merge', () => {
  it('writes one file and says what was left out', async () => {
    const refused = await edlora('merge', smiley, bullseye, '--out', at('a.safetensors'), '--quiet');
    expect(refused.code).toBe(2);
    expect(refused.err).toContain('entries cannot be held; --drop leaves them out');
    expect(existsSync(at('a.safetensors'))).toBe(false);
    const argv = [
      'merge',
      smiley,
      bullseye,
      '--strength',
      '0.8',
      '-0.5',
      '--drop',
      '--out',
      at('a.safetensors'),
    ];
    const done = await edlora(...argv);
    expect(done).toMatchObject({ code: 0 });
    expect(done.out).toMatch(
      /a\.safetensors: \d+ layers, [\d.]+ [kM]B\nleft out \(--drop\):\n {2}<smiley1>: one vector per/,
    );
    expect(done.err).toMatch(/merging \S+ \(\d+\/\d+/);
    expect((await edlora(...argv)).err).toContain('--force to replace it');
    expect((await edlora(...argv, '--force', '--quiet', '--no-metadata')).code).toBe(0);
    expect((await openTensorFile(at('a.safetensors'))).metadata.has('edlora.recipe')).toBe(false);
  });

  it('keeps words in ED-LoRA files; prints JSON', async () => {
    const argv = [
      'merge',
      smiley,
      bullseye,
      '--format',
      'ed-lora',
      '--out',
      at('a.pth'),
      '--json',
      '--quiet',
    ];
    const done = await edlora(...argv);
    expect(done.err).toBe('');
    const result = JSON.parse(done.out) as { words: string[]; dropped: object[] };
    expect(result.words).toEqual(['<smiley1>', '<smiley2>', '<bullseye1>', '<bullseye2>']);
    expect(result.dropped).toEqual([]);
  });

  it('names mistakes', async () => {
    const cases: [string[], string][] = [
      [['--method', 'dare'], 'unknown "dare"'],
      [['--strength', '1', '2', '3'], '--strength: expected 2 values or one for all, got 3'],
      [['--strength', 'much'], '--strength: expected a number, got "much"'],
      [['--blocks', '1,2,3'], 'block weights: expected 17 or 26 numbers, got 3'],
      [['--blocks', 'MIDDD'], 'did you mean MIDD?'],
      [['--density', '0', '--method', 'ties'], 'density: expected a number above 0'],
      [['--dtype', 'fp8'], '--dtype: unknown "fp8"; did you mean "fp32"?'],
      [['--format', 'koyha'], 'did you mean "kohya"?'],
    ];
    for (const [argv, message] of cases) {
      const result = await edlora(
        'merge',
        smiley,
        bullseye,
        ...argv,
        '--drop',
        '--out',
        at('never.safetensors'),
      );
      expect(result.err).toContain(message);
      expect(result.code).toBe(2);
    }
    expect(existsSync(at('never.safetensors'))).toBe(false);
  });
});

describe('convert', () => {
  it('goes through every naming and comes back', async () => {
    const chain = ['kohya', 'kohya-ldm', 'diffusers', 'diffusers-lora', 'peft', 'lycoris', 'ed-lora'];
    let from = smiley;
    for (const format of chain) {
      const out = at(
        format === 'peft' ? 'peft' : `${format}.${format === 'ed-lora' ? 'pth' : 'safetensors'}`,
      );
      const done = await edlora('convert', from, out, '--format', format, '--drop', '--quiet');
      expect(done).toMatchObject({ code: 0, err: '' });
      from = out;
    }
    const [before, after] = [await loadAdapter(smiley), await loadAdapter(from)];
    expect([...after.layers.keys()].sort()).toEqual([...before.layers.keys()].sort());
    const shown = await edlora('convert', smiley, at('words.bin'), '--format', 'xti', '--drop');
    expect(shown.out).toContain('words <smiley1> <smiley2>');
    expect(shown.out).toContain('was: ed-lora');
  });
});

describe('a LyCORIS file', () => {
  it('is refused by concepts with the line that makes it LoRA', async () => {
    const file = at('loha.safetensors');
    const spec = { seed: 1, rank: 2, loraAlpha: 2, dtype: 'F32' as const };
    await writeAdapter(file, 'lycoris', randomLycoris(attentionLayers.slice(0, 1), spec));
    const message = await loadConcept(file).then(String, (error: Error) => asTyped(error.message));
    const line = /edlora (convert [^)]+)\)/.exec(message)![1]!;
    expect(await edlora(...line.split(' '), '--quiet')).toMatchObject({ code: 0 });
    expect((await loadConcept(at('loha-lora.safetensors'))).layers.size).toBe(1);
  });
});

describe('resize', () => {
  it('says ranks and errors', async () => {
    const fixed = await edlora('resize', smiley, '--rank', '2', '--drop', '--out', at('r2.safetensors'));
    expect(fixed.out).toMatch(/rank 2, largest error of a layer 0\.\d+/);
    const dynamic = await edlora(
      'resize',
      smiley,
      '--sv-fro',
      '0.9',
      '--drop',
      '--out',
      at('fro.safetensors'),
    );
    expect(dynamic.out).toMatch(/ranks 2–\d \(mean [\d.]+\)|rank \d,/);
    expect((await edlora('resize', smiley, '--out', at('x.safetensors'))).err).toContain(
      'expected --rank, or one of',
    );
    const both = await edlora(
      'resize',
      smiley,
      '--sv-fro',
      '0.9',
      '--sv-ratio',
      '2',
      '--out',
      at('x.safetensors'),
    );
    expect(both.err).toContain('expected one of');
  });
});

describe('bake, extract, verify', () => {
  it('work one on the other', async () => {
    const argv = ['--base', path.join(world, 'model'), '--loras', smiley, '--strength', '0.8'];
    const baked = await edlora('bake', ...argv, '--drop', '--out', at('tuned'));
    expect(baked).toMatchObject({ code: 0 });
    expect(baked.out).toContain('a checkpoint is written without new words');
    const extracted = await edlora(
      ...[
        'extract',
        at('tuned'),
        path.join(world, 'model'),
        '--rank',
        '4',
        '--layers',
        'all',
        '--drop',
        '--quiet',
      ],
      ...['--out', at('extracted.safetensors')],
    );
    expect(extracted).toMatchObject({ code: 0, err: '' });
    expect((await loadAdapter(at('extracted.safetensors'))).layers.size).toBe(
      (await loadAdapter(smiley)).layers.size,
    );
    const verified = await edlora(
      ...['verify', at('tuned'), at('extracted.safetensors'), '--rebuild'],
      ...['--inputs', path.dirname(smiley)],
    );
    expect(verified.code).toBe(0);
    expect(verified.out).toMatch(/bake, .*made again alike: right\n/);
    expect(verified.out).toMatch(/extract, tensors as stated, made again alike: right\n/);
  });

  it('exits with 1 where a file is not what it says', async () => {
    await edlora('resize', smiley, '--rank', '1', '--drop', '--quiet', '--out', at('one.safetensors'));
    const bytes = readFileSync(at('one.safetensors'));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(at('one.safetensors'), bytes);
    const result = await edlora('verify', at('one.safetensors'));
    expect(result.code).toBe(1);
    expect(result.out).toContain('tensors differ from the stated hash: WRONG');
  });
});

describe('lint', () => {
  it('compares tools', async () => {
    const result = await edlora('lint', smiley, bullseye, '--strength', '0.5');
    expect(result.code).toBe(0);
    expect(result.out).toMatch(/kohya-concat\s+0\.75\s+0\.25/);
    const { relativeError } = JSON.parse(
      (await edlora('lint', smiley, bullseye, '--as', 'peft-linear', '--json')).out,
    ) as LintReport;
    expect(relativeError).toBeGreaterThan(0.1);
  });
});

it('has runnable examples in every help', async () => {
  for (const verb of ['merge', 'convert', 'resize', 'extract', 'bake', 'lint', 'verify']) {
    const { code, out } = await edlora(verb, '--help');
    expect(code).toBe(0);
    expect(out).toContain(`  edlora ${verb} `);
  }
});

it('inspect tells blocks, norms and hashes of any adapter', async () => {
  await edlora('convert', smiley, at('seen.safetensors'), '--format', 'kohya', '--drop');
  const text = await edlora('inspect', at('seen.safetensors'));
  expect(text.code).toBe(0);
  expect(text.out).toMatch(/scheme {7}kohya, Stable Diffusion 1\.x: \d+ lora\n/);
  expect(text.out).toMatch(/AutoV2 [0-9a-f]{10}, AutoV3 [0-9a-f]{12}/);
  expect(text.out).toMatch(/ MID +\d+ +4 +4 +\d/);
  const json = JSON.parse((await edlora('inspect', '--json', at('seen.safetensors'))).out) as {
    adapter: { blocks: { block: string; norm: number }[]; hashes: { sshsModel: string } };
  };
  const { metadata } = await openTensorFile(at('seen.safetensors'));
  expect(json.adapter.hashes.sshsModel).toBe(metadata.get('sshs_model_hash'));
  expect(json.adapter.blocks.map(({ block }) => block)).toContain('text_encoder');
});
