/** Headers stay small however often a file is worked on, tell what it was made of, and can be verified. */
import { statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Adapter } from '../../src/adapters/adapter.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { hashFile } from '../../src/formats/file-hash.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts';
import { headerBytes, historyEntries, historyOf, inputsKey, stepsKey } from '../../src/merging/history.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { resizeFile } from '../../src/merging/jobs/resize-file.ts';
import { verifyFile } from '../../src/merging/verify.ts';
import { attentionLayers, randomAdapter, scratch } from './random-adapters.ts';

interface Told {
  originals: { name: string; sha256: string; metadata: Record<string, string>; omitted?: number }[];
  steps: { result: { name: string; sha256: string }; recipe: { kind: string } }[];
  earlier: number;
}

async function told(file: string): Promise<Told> {
  const { metadata } = await openTensorFile(file);
  const { steps = [], earlier = 0 } = JSON.parse(metadata.get(stepsKey) ?? '{}') as Partial<Told>;
  return { originals: JSON.parse(metadata.get(inputsKey)!) as Told['originals'], steps, earlier };
}

async function original(seed: number, metadata: Record<string, string> = {}): Promise<string> {
  const file = scratch(`original${seed}.safetensors`);
  const spec = { seed, rank: 3, loraAlpha: 2, dtype: 'F32' } as const;
  await writeAdapter(file, 'kohya', { ...randomAdapter(attentionLayers, spec), metadata });
  return file;
}

const whole = (file: string) => ({ path: file, strength: 1, textEncoderStrength: null, blockWeights: null });

describe('a file that is worked on again and again', () => {
  it('stays small, names every original once and every job in order, and verifies', async () => {
    const [first, second] = [await original(1, { note: 'mine' }), await original(2)];
    let file = first;
    const made: string[] = [];
    for (let i = 0; i < 30; i++) {
      const out = scratch(`step${i}.safetensors`);
      if (i % 3 === 0) await convertFile({ input: file, out, format: i % 2 === 0 ? 'diffusers' : 'kohya' });
      else if (i % 3 === 1) await resizeFile({ input: file, out, rule: { kind: 'rank' }, rank: 3 });
      else await mergeFiles({ inputs: [whole(file), whole(second)], out, method: 'svd', rank: 3 });
      made.push(out);
      file = out;
    }
    // 30 MB after 11 before.
    expect(statSync(file).size).toBeLessThan(200_000);
    const { originals, steps, earlier } = await told(file);
    expect(originals.map(({ name }) => name)).toEqual(['original1', 'original2']);
    expect(originals[0]!.metadata.note).toBe('mine');
    expect(originals.map(({ sha256 }) => sha256)).toEqual([await hashFile(first), await hashFile(second)]);
    expect(steps.map(({ result }) => result.name)).toEqual(
      made.slice(0, -1).map((out) => path.parse(out).name),
    );
    expect(steps.map(({ recipe }) => recipe.kind)).toEqual(
      made.slice(0, -1).map((_, i) => ['convert', 'resize', 'merge'][i % 3]),
    );
    expect(earlier).toBe(0);
    expect(await verifyFile(file, { rebuild: true })).toMatchObject({ ok: true, rebuilt: true });
    const { metadata } = await openTensorFile(file);
    for (const value of metadata.values()) {
      for (const secret of [os.homedir(), os.tmpdir(), process.cwd()]) {
        if (secret !== path.sep) expect(value).not.toContain(`${secret}${path.sep}`);
      }
    }
  });

  it('stays below its limit where history and headers are long: the oldest go first, and are counted', async () => {
    const notes = { note: '"'.repeat(600_000) };
    let file = await original(3, notes);
    const second = await original(4, { other: 'x'.repeat(300_000) });
    for (let i = 0; i < 3; i++) {
      const out = scratch(`long${i}.safetensors`);
      await mergeFiles({ inputs: [whole(file), whole(second)], out, method: 'svd', rank: 3 });
      file = out;
    }
    const { originals, steps } = await told(file);
    expect(originals[0]).toMatchObject({ name: 'original3', metadata: {} });
    expect(originals[0]!.omitted).toBeGreaterThan(600_000);
    expect(originals[1]!.metadata.other).toHaveLength(300_000);
    expect(steps).toHaveLength(2);
    expect(statSync(file).size).toBeLessThan(1_000_000);
    const many = Array.from({ length: 5000 }, (_, i) => ({
      result: { name: `s${i}`, sha256: String(i) },
      recipe: { kind: 'merge', text: 'x'.repeat(500) },
    }));
    const entries = historyEntries({ originals: [], steps: many, earlier: 7 }, 500_000);
    expect(headerBytes(entries[stepsKey]!)).toBeLessThan(500_000);
    const kept = JSON.parse(entries[stepsKey]!) as Told;
    expect(kept.earlier + kept.steps.length).toBe(5007);
    expect(kept.steps.at(-1)!.result.name).toBe('s4999');
  });
});

describe('headers of the older form, with headers inside headers', () => {
  const nested = (depth: number): ReadonlyMap<string, string> => {
    let metadata: Record<string, string> = { note: 'the first' };
    for (let i = 0; i < depth; i++) {
      const recipe = {
        tool: 'edlora',
        kind: 'convert',
        inputs: [{ path: '/home/alice/in.safetensors', files: [], settings: {} }],
        options: {},
      };
      metadata = {
        'edlora.recipe': JSON.stringify(recipe),
        'edlora.inputs': JSON.stringify([{ name: `n${i}`, sha256: `hash${i}`, metadata }]),
      };
    }
    return new Map(Object.entries(metadata));
  };
  const history = (metadata: ReadonlyMap<string, string>) =>
    historyOf([{ adapter: { path: '/x/last.safetensors', metadata } as Adapter, sha256: 'last' }]);

  it('become a list, without the places of the machine', () => {
    const { originals, steps } = history(nested(5));
    expect(originals).toMatchObject([{ name: 'n0', sha256: 'hash0', metadata: { note: 'the first' } }]);
    expect(steps.map(({ result }) => result.sha256)).toEqual(['hash1', 'hash2', 'hash3', 'hash4', 'last']);
    expect(JSON.stringify(steps)).not.toContain('alice');
  });

  it('are read as far as they can be, whatever they hold', () => {
    for (const value of ['', '[', '{}', '[[', '[{"name":1}]', '['.repeat(200_000), '{"a":'.repeat(100_000)]) {
      const metadata = new Map([
        ['edlora.recipe', value],
        ['edlora.inputs', value],
        ['edlora.steps', value],
      ]);
      const found = history(metadata);
      expect(found.steps).toHaveLength(1);
      expect(() => historyEntries(found, 1000)).not.toThrow();
    }
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
    const steps = `{"earlier":0,"steps":[{"result":{"name":"a","sha256":"b"},"recipe":${deep}}]}`;
    const found = history(
      new Map([
        ['edlora.recipe', deep],
        ['edlora.steps', steps],
      ]),
    );
    expect(() => historyEntries(found, 1000)).not.toThrow();
  });

  it('verify by the absolute paths that they have', async () => {
    const input = await original(5);
    const out = scratch('old.safetensors');
    await convertFile({ input, out, format: 'kohya' });
    const { tensors, metadata } = await openSafetensors(out);
    const recipe = JSON.parse(metadata.get('edlora.recipe')!) as {
      inputs: { path: string; files: object[] }[];
    };
    recipe.inputs[0]!.path = input;
    recipe.inputs[0]!.files = [{ path: input, sha256: await hashFile(input) }];
    const old = scratch('old.safetensors');
    await writeSafetensors(old, tensors.values(), {
      ...Object.fromEntries(metadata),
      'edlora.recipe': JSON.stringify(recipe),
    });
    expect(await verifyFile(old, { rebuild: true })).toMatchObject({ ok: true, rebuilt: true });
  });
});
