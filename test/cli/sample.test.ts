/** `edlora sample` from arguments to pictures, on the miniature with random weights and few steps. */
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { readPicture } from '../../src/formats/picture.ts';
import { encodePng, readPngTexts } from '../../src/formats/png.ts';
import { fakeIo } from '../support/fake-io.ts';
import { goldenPath } from '../support/goldens.ts';

const model = goldenPath('goldens/tiny-random/model');
const edlora = goldenPath('goldens/tiny-random/edlora.pth');
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-cli-sample-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const SMALL = ['--width', '64', '--height', '64', '--steps', '2'];
async function sample(...argv: string[]) {
  const io = fakeIo();
  const code = await run(['sample', ...argv], io);
  return { code, ...io.written };
}

describe('sample', () => {
  it('numbers pictures on, tells seeds, and draws a picture again from its own recipe', async () => {
    const out = path.join(folder, 'out');
    const argv = ['--base', model, '--prompt', 'a cat', ...SMALL, '--out', out];
    const first = await sample(...argv, '--count', '2', '--seed', '5', '--grid');
    expect(first.code, first.err).toBe(0);
    expect(first.out).toMatch(/0000\.png\s+5\s+64 × 64\n0001\.png\s+6\s+64 × 64\n/);
    expect(first.err).toMatch(/picture 1 of 2 \(1\/4/);
    expect(readdirSync(out).sort()).toEqual(['0000.png', '0001.png', 'grid-0000.png']);
    expect((await readPicture(path.join(out, 'grid-0000.png'))).width).toBe(64);
    // Of a model in another part of the disk the picture says the name alone.
    const from = ['--from', path.join(out, '0001.png'), '--base', model];
    const again = await sample(...from, '--out', out, '--quiet');
    expect(again).toMatchObject({ code: 0, err: '' });
    expect((await readPicture(path.join(out, '0002.png'))).data).toEqual(
      (await readPicture(path.join(out, '0001.png'))).data,
    );
    const texts = await readPngTexts(path.join(out, '0001.png'));
    expect(texts.get('parameters')).toContain('a cat\nSteps: 2, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 6');
  });

  it('says which file acts in which region, draws it so, and again from the picture', async () => {
    const out = path.join(folder, 'placed');
    const lora = path.join(folder, 'placed.pth');
    cpSync(edlora, lora);
    const scene = ['--base', model, '--concepts', edlora, '--prompt', 'grass', ...SMALL];
    const regions = ['--region', 'a <potter1> @ 0,0,0.5,1', 'a dog @ 0.5,0,1,1'];
    const plan = await sample(...scene, ...regions, '--dry-run');
    expect(plan.out).toContain('region 1  a <potter1> @ box 0, 0, 0.5, 1 with edlora.pth');
    expect(plan.out).toContain('region 2  a dog @ box 0.5, 0, 1, 1 with no concept');
    const called = ['--region', `a cat <lora:${lora}:0.5> @ 0,0,0.5,1`];
    const drawn = await sample(
      ...scene.filter((arg) => arg !== '--concepts' && arg !== edlora),
      ...called,
      '--out',
      out,
    );
    expect(drawn.code, drawn.err).toBe(0);
    const again = await sample(
      '--from',
      path.join(out, '0000.png'),
      '--base',
      model,
      '--out',
      out,
      '--quiet',
    );
    expect(again.code, again.err).toBe(0);
    const pictures = await Promise.all(
      ['0000.png', '0001.png'].map((name) => readPicture(path.join(out, name))),
    );
    expect(pictures[1]!.data).toEqual(pictures[0]!.data);
    const everywhere = await sample(...scene, ...regions, '--concepts-everywhere', '--dry-run');
    expect(everywhere.out).toContain('region 2  a dog @ box 0.5, 0, 1, 1 with edlora.pth');
  });

  it('takes scene files, options before them, and says JSON', async () => {
    const scene = path.join(folder, 'scene.yaml');
    cpSync(edlora, path.join(folder, 'edlora.pth'));
    writeFileSync(
      path.join(folder, 'mask.png'),
      await encodePng({ width: 8, height: 8, data: new Uint8Array(192).fill(255) }),
    );
    writeFileSync(
      scene,
      `base: ${model}
concepts: [{path: edlora.pth, strength: 0.7}]
prompt: two of them
regions:
  - a <potter1> @ 0,0,0.5,1
  - {prompt: "a <potter3>", mask: mask.png}
width: 64
height: 64
steps: 9
`,
    );
    const idle = ['--guidance', '1', '--negative', 'dark', '--eta', '0.5', '--guidance-rescale', '0.2'];
    const plan = await sample('--scene', scene, '--dry-run', '--json', '--steps', '2', ...idle);
    expect(plan.code, plan.err).toBe(0);
    const planned = JSON.parse(plan.out) as { scene: { steps: number; regions: object[] }; notes: string[] };
    expect(planned.scene.steps).toBe(2);
    expect(planned.notes).toContain('--negative has no effect without guidance above 1');
    expect(planned.notes).toContain('--guidance-rescale has no effect without guidance above 1');
    expect(planned.notes).toContain('--eta has no effect: only the sampler ddim reads it');
    expect(planned.notes.join('\n')).toMatch(/mask resized from 8 × 8 to 64 × 64/);
    expect(planned.notes.join('\n')).toMatch(/<potter3>: no such word.*did you mean <potter[12]>/);
    const drawn = await sample('--scene', scene, '--steps', '2', '--out', path.join(folder, 's'), '--json');
    const { pictures } = JSON.parse(drawn.out) as { pictures: { file: string }[] };
    expect(existsSync(pictures[0]!.file)).toBe(true);
  });

  it('is guided by a pose, by Mix-of-Show’s regions and strengths, and writes previews', async () => {
    const pose = path.join(folder, 'pose.png');
    writeFileSync(
      pose,
      await encodePng({ width: 64, height: 64, data: new Uint8Array(64 * 64 * 3).fill(90) }),
    );
    const out = path.join(folder, 'pose');
    const argv = [
      '--base',
      model,
      '--prompt',
      'x',
      ...SMALL,
      '--out',
      out,
      '--preview',
      '1',
      '--no-metadata',
    ];
    const guided = await sample(
      ...argv,
      ...['--keypose', pose, '--keypose-adapter', goldenPath('goldens/tiny-random/t2i_adapter')],
      ...['--keypose-regions', '[0, 0, 64, 32]-0.5', '--prompt-rewrite', '[a]-*-[b]-*-[0, 0, 32, 64]'],
    );
    expect(guided.code, guided.err).toBe(0);
    expect(readdirSync(out)).toEqual(['0000.png']);
    expect((await readPngTexts(path.join(out, '0000.png'))).size).toBe(0);
    const plain = await sample(...argv);
    expect(plain.code).toBe(0);
    expect(readFileSync(path.join(out, '0001.png'))).not.toEqual(readFileSync(path.join(out, '0000.png')));
  });

  it.each([
    [['--prompt', 'x', '--width', '65'], 2, /width: expected a multiple of 8 pixels, got 65; 64 and 72 work/],
    [['--prompt', 'x', '--region', 'a @ 0,0,1.5'], 2, /four numbers/],
    [['--prompt', 'x', '--region', 'a @ 0.5,0,0.501,1'], 2, /covers no whole cell/],
    [['--prompt', 'x', '--steps', 'many'], 2, /--steps: expected a number, got "many"/],
    [['--prompt', 'x', '--sampler', 'eulr'], 2, /sampler: expected one of/],
    [['--prompt', 'x', '--isolate', '2'], 2, /--isolate: expected 0 … 1/],
    [['--prompt', 'x', '--keypose', 'pose.png'], 2, /expected --keypose-adapter/],
    [['--prompt', 'x', '--denoise', '0.5'], 2, /expected --init/],
    [['--prompt', 'x', '--combine', 'shuffle'], 2, /--combine: /],
    [['--prompt', 'x', '--auto-regions'], 2, /no concept's words.*load concepts/],
    [['--prompt', 'x', '--no-restart'], 2, /--restart: expected --auto-regions/],
    [['--auto-regions'], 2, /expected a prompt with words of concepts/],
    [['--prompt', 'x', '--loras', 'none.safetensors'], 3, /no such file/],
    [['--prompt', 'x', '--init', 'none.png'], 3, /none\.png/],
    [['--scene', 'none.yaml'], 3, /no such file/],
    [[], 2, /expected a prompt/],
  ] as [string[], number, RegExp][])('refuses %j before anything is loaded', async (argv, code, message) => {
    const out = path.join(folder, 'refused');
    const result = await sample('--base', model, '--out', out, ...argv);
    expect(result.code, result.err).toBe(code);
    expect(result.err).toMatch(message);
    expect(result.out).toBe('');
    expect(existsSync(out)).toBe(false);
  });
});
