/** Verifying opens what a recipe names only where it is an ordinary file of weights, of the size recorded. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeAdapter } from '../../src/adapters/write.ts';
import { FormatError } from '../../src/errors.ts';
import { hashFile } from '../../src/formats/file-hash.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { verifyFile } from '../../src/merging/verify.ts';
import { attentionLayers, randomAdapter, scratch } from './random-adapters.ts';

async function withRecipe(recipe: unknown): Promise<string> {
  const file = scratch('claimed.safetensors');
  const text = typeof recipe === 'string' ? recipe : JSON.stringify(recipe);
  await writeSafetensors(file, [float32Tensor('a', [1], Float32Array.of(1))], { 'edlora.recipe': text });
  return file;
}

const convert = (files: readonly object[], input = 'a.safetensors') => ({
  tool: 'edlora',
  kind: 'convert',
  inputs: [{ path: input, files, settings: {} }],
  options: { format: 'kohya', rank: null, dtype: null, drop: false },
});

const sha256 = 'a'.repeat(64);

async function original(seed: number): Promise<string> {
  const file = scratch(`original${seed}.safetensors`);
  const spec = { seed, rank: 3, loraAlpha: 2, dtype: 'F32' } as const;
  await writeAdapter(file, 'kohya', randomAdapter(attentionLayers, spec));
  return file;
}

describe('what a recipe names', () => {
  it.skipIf(process.platform === 'win32')(
    'is refused by name where it is no ordinary file of weights',
    async () => {
      const folder = path.dirname(scratch('x'));
      const pipe = path.join(folder, 'pipe.safetensors');
      execFileSync('mkfifo', [pipe]);
      const device = path.join(folder, 'zero.safetensors');
      symlinkSync('/dev/zero', device);
      const made = path.join(folder, 'kernel.bin');
      symlinkSync('/proc/self/environ', made);
      const text = path.join(folder, 'secrets.txt');
      writeFileSync(text, 'secret');
      const names = ['/dev/zero', pipe, device, made, text, folder];
      const file = await withRecipe(convert(names.map((name) => ({ path: name, sha256 }))));
      const start = performance.now();
      const { inputs, ok } = await verifyFile(file);
      expect(performance.now() - start).toBeLessThan(5000);
      expect(ok).toBe(false);
      expect(inputs.map(({ path: own, state }) => [own, state])).toEqual(
        names.map((name) => [name, 'refused']),
      );
      expect(inputs.map(({ reason }) => reason)).toEqual([
        expect.stringContaining('a device'),
        expect.stringContaining('a pipe'),
        expect.stringContaining('a device'),
        expect.stringContaining('by its ending'),
        expect.stringContaining('by its ending'),
        expect.stringContaining('a folder'),
      ]);
      await expect(verifyFile(file, { rebuild: true })).rejects.toThrow(
        /\/dev\/zero is refused \(expected an/,
      );
    },
  );

  it('is not read where its size is another than recorded', async () => {
    const input = await original(1);
    const file = await withRecipe(convert([{ path: input, sha256: await hashFile(input), sizeBytes: 1 }]));
    expect((await verifyFile(file)).inputs).toMatchObject([
      { state: 'changed', reason: expect.stringContaining('1 bytes recorded, got') },
    ]);
  });

  it('is not opened beyond the files that were verified', async () => {
    const input = await original(2);
    const files = [{ path: input, sha256: await hashFile(input) }];
    const file = await withRecipe(convert(files, '/dev/zero'));
    await expect(verifyFile(file, { rebuild: true })).rejects.toThrow(
      'none of the files recorded for /dev/zero lies in it',
    );
  });

  it('is told apart where two inputs have one name', async () => {
    const [first, second] = [await original(3), await original(4)];
    const folder = path.dirname(scratch('x'));
    for (const [name, file] of [
      ['a', first],
      ['b', second],
    ] as const) {
      mkdirSync(path.join(folder, name));
      copyFileSync(file, path.join(folder, name, 'lora.safetensors'));
    }
    const whole = (name: string, strength: number) => ({
      path: path.join(folder, name, 'lora.safetensors'),
      strength,
      textEncoderStrength: null,
      blockWeights: null,
    });
    const out = scratch('merged.safetensors');
    await mergeFiles({ inputs: [whole('a', 1), whole('b', 0.5)], out });
    // As from another part of the disk: names alone.
    const { tensors, metadata } = await openSafetensors(out);
    const recipe = metadata.get('edlora.recipe')!.replaceAll(/"path":"[^"]*\//g, '"path":"');
    const moved = scratch('moved.safetensors');
    await writeSafetensors(moved, tensors.values(), {
      ...Object.fromEntries(metadata),
      'edlora.recipe': recipe,
    });
    const search = [path.join(folder, 'a'), path.join(folder, 'b')];
    expect(await verifyFile(moved, { rebuild: true, search })).toMatchObject({ ok: true, rebuilt: true });
  });
});

describe('a recipe that is none', () => {
  it('is refused by what is wrong, not by a defect', async () => {
    const good = convert([{ path: 'a.safetensors', sha256 }]);
    const resize = { ...good, kind: 'resize', options: { ...good.options, rule: null } };
    for (const recipe of [
      'null',
      '[]',
      '"x"',
      '['.repeat(100_000),
      { ...good, kind: 'other' },
      { ...good, inputs: 5 },
      { ...good, inputs: [{ path: 5, files: [], settings: {} }] },
      { ...good, options: { ...good.options, onLayer: 5, format: 'none' } },
      { ...good, options: { ...good.options, rank: 'x' } },
      { ...good, inputs: [{ ...good.inputs[0], settings: { blockWeights: {} } }] },
      convert([{ path: 'x'.repeat(10_000), sha256 }]),
      convert(Array.from({ length: 10_000 }, () => ({ path: 'a.safetensors', sha256 }))),
      resize,
      { tool: 'edlora', kind: 'fusion', base: {}, concepts: [] },
    ]) {
      const file = await withRecipe(recipe);
      const error: unknown = await verifyFile(file, { rebuild: true }).catch((cause: unknown) => cause);
      expect(error, JSON.stringify(recipe).slice(0, 100)).toBeInstanceOf(FormatError);
      expect((error as Error).message.length).toBeLessThan(600);
    }
    const none = await withRecipe({ ...good, inputs: [] });
    await expect(verifyFile(none, { rebuild: true })).rejects.toThrow('expected an adapter among its inputs');
  });

  it('does not steer where a repeated job writes', async () => {
    const input = await original(5);
    const out = scratch('out.safetensors');
    await convertFile({ input, out, format: 'kohya' });
    const { tensors, metadata } = await openSafetensors(out);
    const recipe = JSON.parse(metadata.get('edlora.recipe')!) as { options: Record<string, unknown> };
    const elsewhere = scratch('elsewhere.safetensors');
    Object.assign(recipe.options, { out: elsewhere, force: true, onLayer: 'x', noMetadata: 7 });
    const steered = scratch('steered.safetensors');
    const header = { ...Object.fromEntries(metadata), 'edlora.recipe': JSON.stringify(recipe) };
    await writeSafetensors(steered, tensors.values(), header);
    expect(await verifyFile(steered, { rebuild: true })).toMatchObject({ ok: true, rebuilt: true });
    expect(existsSync(elsewhere)).toBe(false);
  });
});
