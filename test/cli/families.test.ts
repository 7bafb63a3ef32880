/** SDXL on the command line: commands from start to end on its miniature, what does not belong together, an example in every help. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadAllCommands } from '../../cli/commands/index.ts';
import { run } from '../../cli/run.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { type MergedLayer, writeLora } from '../../src/concepts/lora-file.ts';
import type { EvaluationReport } from '../../src/evaluation/evaluation-report.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readPicture } from '../../src/formats/picture.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import type { FusionReport } from '../../src/fusion/report/report.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { familyOfAdapters } from '../../src/models/families/families.ts';
import { packageRoot } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { fakeIo } from '../support/fake-io.ts';
import { familiesPath } from '../support/goldens.ts';
import { writeRandomConcept } from '../support/random-concept.ts';
import { scratch } from '../support/scratch.ts';

const model = familiesPath('sdxl', 'model');
const world = path.join(packageRoot(), 'fixtures/tiny-world');
const words = ['<one>', '<two>'];
const files = words.map((_, i) => scratch(`${i}.safetensors`));
beforeAll(async () => {
  const base = await openCheckpoint(model);
  for (const [seed, word] of words.entries()) {
    await writeRandomConcept(files[seed]!, base, { words: [word], seed });
  }
});

async function edlora(...argv: string[]) {
  const io = fakeIo({});
  const code = await run(argv, io);
  return { code, ...io.written };
}
const SMALL = ['--steps', '1', '--runs', '1', '--width', '32', '--height', '32'];

describe('sample', () => {
  it('gives the second text encoder a prompt of its own, which pictures remember', async () => {
    const out = path.join(path.dirname(scratch('x')), 'drawn');
    const draw = (...own: string[]) =>
      edlora(...['sample', '--base', model, '--prompt', 'a cat', '--negative', 'a dog', ...own]);
    const quick = ['--width', '32', '--height', '32', '--steps', '1', '--json', '--quiet', '--out', out];
    const drawn: string[] = [];
    for (const own of [
      [],
      ['--prompt-2', 'a cat', '--negative-2', 'a dog'],
      ['--prompt-2', 'the castle'],
      ['--prompt-2', 'the castle', '--negative-2', 'the sea'],
    ]) {
      const { code, out: said } = await draw(...quick, ...own);
      expect(code).toBe(0);
      drawn.push((JSON.parse(said) as { pictures: { file: string }[] }).pictures[0]!.file);
    }
    const pictures = [];
    for (const file of drawn) pictures.push((await readPicture(file)).data);
    expect(pictures[1]).toEqual(pictures[0]);
    expect(pictures[2]).not.toEqual(pictures[0]);
    expect(pictures[3]).not.toEqual(pictures[2]);
    const again = await edlora('sample', '--from', drawn[3]!, '--base', model, '--dry-run', '--json');
    expect(JSON.parse(again.out).scene).toMatchObject({ prompt2: 'the castle', negative2: 'the sea' });
  });

  it('says where a second prompt has nobody to read it', async () => {
    const idle = await edlora(
      ...['sample', '--base', model, '--prompt', 'a', '--negative-2', 'b', '--dry-run'],
    );
    expect(idle).toMatchObject({ code: 0 });
    expect(idle.err).toMatch(/note: --negative-2 has no effect without --negative/);
    const one = await edlora('sample', '--prompt', 'a', '--prompt-2', 'b', '--dry-run');
    expect(one).toMatchObject({ code: 2 });
    expect(one.err).toMatch(
      /second prompt: expected a base with two text encoders, got Stable Diffusion 1.x/,
    );
  });
});

describe('collect and fuse', () => {
  /** Of few layers: a refinement's gradient begins at the first. */
  async function plainLora(seed: number): Promise<string> {
    const { parts, family } = await openCheckpoint(model);
    const random = new TorchGenerator(seed);
    const file = scratch(`style${seed}.safetensors`);
    const last = [...parts.layers].filter(({ id }) => /up_blocks\.1\.attentions\.2.*attn/.test(id));
    const layers = last.map(({ layerName, m, n }): MergedLayer => {
      const [up, down] = [random.randn(m), random.randn(n)];
      return { component: 'unet', layerName, up, down, rank: 1, kernel: null };
    });
    await writeLora(file, layers, { family: familyOfAdapters(family) });
    return file;
  }

  it('take plain LoRAs, from the statistics beside one of them, and refine', async () => {
    const styles = [await plainLora(1), await plainLora(2)];
    const collected = await edlora('collect', styles[0]!, '--base', model, ...SMALL);
    expect(collected).toMatchObject({ code: 0 });
    expect(collected.out).toMatch(/^style1: .*style1\.stats\.safetensors, /);
    const [out, captions] = [path.join(path.dirname(styles[0]!), 'fused'), scratch('captions.txt')];
    writeFileSync(captions, 'a cat\n');
    const fused = await edlora(
      ...['fuse', '--base', model, '--concepts', ...styles, ...SMALL, '--preserve-captions', captions],
      ...['--refine', '1', '--out', out, '--quiet'],
    );
    expect(fused).toMatchObject({ code: 0 });
    expect(fused.out).toMatch(/\(1 of 2 concepts were stored\)/);
    const report = JSON.parse(readFileSync(path.join(out, 'report.json'), 'utf8')) as FusionReport;
    expect(report.refinement).not.toBeNull();
    const merged = await loadConcept(path.join(out, 'lora.safetensors'));
    expect(merged.layers.size).toBe(16);
  }, 60_000);
});

describe('eval', () => {
  it.each([
    ['sdxl', ['text_encoder', 'text_encoder_2']],
    ['sd2', ['text_encoder']],
  ])('weighs a word of %s among the words of each text encoder', async (family, encoders) => {
    const folder = familiesPath(family, 'model');
    const base = await openCheckpoint(folder);
    const own = words.map((word) => scratch(`${family}-${word.slice(1, -1)}.safetensors`));
    for (const [seed, word] of words.entries()) {
      await writeRandomConcept(own[seed]!, base, { words: [word], seed });
    }
    const prompts = scratch('prompts.txt');
    writeFileSync(prompts, 'a <TOK>\n');
    const out = path.join(path.dirname(prompts), 'report');
    const done = await edlora(
      ...['eval', '--base', folder, '--clip', path.join(world, 'model/clip'), '--concept', own[0]!],
      ...['--density', own[1]!, '--reference', path.join(world, 'concepts/smiley'), '--prompts', prompts],
      ...['--count', '1', '--steps', '1', '--width', '32', '--height', '32', '--no-attention'],
      ...['--out', out, '--quiet'],
    );
    expect(done).toMatchObject({ code: 0 });
    const { density } = JSON.parse(readFileSync(path.join(out, 'report.json'), 'utf8')) as EvaluationReport;
    expect(density!.map(({ encoder }) => encoder)).toEqual(encoders);
    const { contextCount } = base.parts.layers;
    for (const { embeddings } of density!) {
      expect(embeddings.map(({ word, logDensity }) => [word, logDensity.length])).toEqual(
        words.map((word) => [word, contextCount]),
      );
    }
    const page = readFileSync(path.join(out, 'report.html'), 'utf8');
    const heading = 'Where the learned embeddings lie';
    expect(page).toContain(encoders.length > 1 ? `${heading}: ${encoders.at(-1)}` : heading);
  });
});

describe('what does not belong together', () => {
  const other = path.join(world, 'concepts/edlora_smiley.pth');
  const reference = path.join(world, 'concepts/smiley');
  const said = (got: string, wanted: string) =>
    new RegExp(`expected (a concept|an adapter|a change|layers).* ${wanted}.*, got .*${got}`);
  it.each([
    ['sample', ['--prompt', 'a', '--dry-run', '--concepts']],
    ['fuse', ['--dry-run', '--concepts']],
    ['collect', ['--out', scratch('s.safetensors')]],
    ['eval', ['--reference', reference, '--clip', path.join(world, 'model/clip'), '--dry-run', '--concept']],
    ['bake', ['--out', scratch('baked'), '--loras']],
    ['port', ['--out', scratch('ported')]],
  ])('%s names the families of a LoRA and of the base', async (command, options) => {
    const onXl = await edlora(command, '--base', model, ...options, other);
    expect(onXl.code).not.toBe(0);
    expect(onXl.err).toMatch(said('Stable Diffusion 1\\.x', 'SDXL'));
    const onOld = await edlora(command, '--base', path.join(world, 'model'), ...options, files[0]!);
    expect(onOld.code).not.toBe(0);
    expect(onOld.err).toMatch(said('SDXL', 'Stable Diffusion 1\\.x'));
  });

  it.each([
    ['clip_l', 'text_encoder \\(clip_l\\)'],
    ['clip_g', 'text_encoder_2 \\(clip_g\\)'],
  ])('an embedding with %s alone is one half of two', async (half, name) => {
    const whole = await openTensorFile(familiesPath('sdxl', 'embedding', 'sdxl_embedding.safetensors'));
    const file = scratch('half.safetensors');
    await writeSafetensors(
      file,
      [...whole.tensors.values()].filter((tensor) => tensor.name === half),
    );
    const drawn = await edlora(
      ...['sample', '--base', model, '--prompt', 'a half', '--embeddings', file, '--dry-run'],
    );
    expect(drawn).toMatchObject({ code: 3 });
    expect(drawn.err).toMatch(
      new RegExp(
        `expected vectors of text_encoder \\(clip_l\\) and text_encoder_2 \\(clip_g\\), got those of ${name}`,
      ),
    );
  });
});

describe('help', () => {
  it('of each command that takes SDXL has an example with it', async () => {
    const commands = await loadAllCommands();
    const without = commands.filter(
      ({ examples }) => !examples.some(([line]) => /sdxl|stable-diffusion-xl|sd_xl/.test(line)),
    );
    // Of a base with two text encoders there is no one embedding to go back from.
    expect(without.map(({ usage }) => usage.split(' ')[0])).toEqual(['deproject']);
  });
});
