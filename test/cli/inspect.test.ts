import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../cli/run.ts';
import { type MergedLayer, writeLora } from '../../src/concepts/lora-file.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { packageRoot } from '../../src/package-root.ts';
import { fakeIo } from '../support/fake-io.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

interface Printed {
  kind: string;
  description: string;
  format: string;
  files: { sha256: string | null }[];
  tokens: { word: string; shape: number[] }[];
  layers: Record<string, Record<string, number>> | null;
  tensors: { name: string }[];
  tensorCount: number;
  metadata: Record<string, string>;
  notes: string[];
}

const fixture = (...parts: string[]): string => path.join(packageRoot(), 'fixtures', ...parts);
async function inspect(...argv: string[]) {
  const io = fakeIo();
  return { code: await run(['inspect', ...argv], io), ...io.written };
}
async function inspectJson(...argv: string[]): Promise<Printed> {
  const { code, out } = await inspect('--json', ...argv);
  expect(code).toBe(0);
  return JSON.parse(out) as Printed;
}

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-inspect-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const layer: MergedLayer = {
  component: 'unet',
  layerName: 'mid_block.attentions.0.transformer_blocks.0.attn1.to_q',
  up: Float32Array.from([1, 2, 3, 4]),
  down: Float32Array.from([5, 6]),
  rank: 1,
  kernel: null,
};

describe('edlora inspect', () => {
  it('says what a concept holds', async () => {
    const { code, out } = await inspect(fixture('tiny-world/concepts/edlora_smiley.pth'));
    expect(code).toBe(0);
    expect(out).toContain('ED-LoRA concept');
    expect(out).toContain('<smiley1> [16, 64], <smiley2> [16, 64]');
    expect(out).toMatch(/unet\s+128 layers of rank 4/);
    expect(out).toMatch(/text_encoder\s+12 layers of rank 4/);
    expect(out).toMatch(/sha256\s+[0-9a-f]{64}\n/);
  });

  it('takes several files and prints one JSON document', async () => {
    const files = [
      fixture('tiny-world/concepts/edlora_smiley.pth'),
      fixture('tiny-world/model'),
      fixture('tiny-world/model/unet'),
      fixture('goldens/tiny-random/single_file.safetensors'),
      fixture('goldens/formats/learned_embeds_legacy.bin'),
      fixture('goldens/formats/zip_dtypes.pt'),
    ];
    const printed = (await inspectJson(...files)) as unknown as Printed[];
    expect(printed.map(({ kind }) => kind)).toEqual([
      'concept',
      'model-folder',
      'component',
      'checkpoint',
      'embeddings',
      'tensors',
    ]);
    for (const { files: held } of printed) {
      for (const { sha256 } of held) expect(sha256).toMatch(/^[0-9a-f]{64}$/);
    }
    const quick = await inspectJson('--no-hash', files[0]!);
    expect(quick.files.map(({ sha256 }) => sha256)).toEqual([null]);
  });

  it('lists every tensor on demand', async () => {
    const file = fixture('tiny-world/concepts/edlora_smiley.pth');
    const { tensors, tensorCount } = await inspectJson(file);
    const { out } = await inspect('--tensors', file);
    expect(tensors).toHaveLength(tensorCount);
    expect(out.match(/ F32 +\[/g)).toHaveLength(tensorCount);
    expect(out.split('\n').every((line) => [...line].length <= 80)).toBe(true);
  });

  it.each(['kohya', 'diffusers', 'peft', 'ed-lora'] as const)('knows LoRAs in %s names', async (naming) => {
    const file = path.join(folder, naming === 'peft' ? 'adapter' : `${naming}.safetensors`);
    await writeLora(file, [layer], { naming, metadata: { note: 'n'.repeat(500) } });
    const { kind, description, format, layers, metadata, notes } = await inspectJson(file);
    expect(kind).toBe(naming === 'ed-lora' ? 'concept' : 'lora');
    expect(description).toContain(naming === 'ed-lora' ? 'ED-LoRA' : naming);
    expect(format).toBe(naming === 'peft' ? 'folder' : 'safetensors');
    expect(layers).toEqual({ text_encoder: {}, unet: { 1: 1 } });
    expect(metadata.note).toHaveLength(500);
    expect(notes).toEqual([]);
    const { out } = await inspect(file);
    expect(out).toMatch(/metadata +note: n+…\n/);
  });

  it('reads sharded models, and says which numbers are no numbers', async () => {
    const shards = path.join(folder, 'shards');
    mkdirSync(shards);
    const parts = [
      ['a.safetensors', 'down_blocks.0.resnets.0.conv1.weight'],
      ['b.safetensors', 'conv_out.weight'],
    ] as const;
    for (const [name, tensor] of parts) {
      await writeSafetensors(path.join(shards, name), [float32Tensor(tensor, [2], Float32Array.of(1, 2))]);
    }
    const index = { weight_map: Object.fromEntries(parts.map(([name, tensor]) => [tensor, name])) };
    writeFileSync(path.join(shards, 'diffusion_pytorch_model.safetensors.index.json'), JSON.stringify(index));
    const sharded = await inspectJson(shards);
    expect([sharded.kind, sharded.files.length]).toEqual(['component', 3]);

    const broken = path.join(folder, 'nan.safetensors');
    const word = float32Tensor('<w>', [16, 32], new Float32Array(16 * 32).fill(Number.NaN));
    await writeSafetensors(broken, [word]);
    const { kind, notes } = await inspectJson(broken);
    expect(kind).toBe('embeddings');
    expect(notes[0]).toContain('NaN');
  });

  it('names a foreign architecture', async () => {
    const file = path.join(folder, 'sdxl.safetensors');
    const name = 'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight';
    const tensors = [float32Tensor(name, [1, 2], Float32Array.of(1, 2))];
    // A layer that both families have, numbered as both may number it.
    await writeSafetensors(file, tensors);
    expect((await inspectJson(file)).description).toBe('weights for SD 1.x');
    await writeSafetensors(file, tensors, { ss_base_model_version: 'sdxl_base_v1-0' });
    expect((await inspectJson(file)).description).toBe('weights for SDXL');
  });
});

describe('bad input', () => {
  it.each([
    [fixture('goldens/hostile/exec_reduce_os_system.pt'), 'pickle refers to "os.system"'],
    [fixture('goldens/hostile/file_html.ckpt'), 'web page'],
    [fixture('nowhere.safetensors'), 'no such file'],
    [fixture('tiny-world/concepts/smiley'), 'expected'],
  ])('refuses %s with exit code 3', async (file, message) => {
    const { code, out, err } = await inspect(file);
    expect({ code, out }).toEqual({ code: 3, out: '' });
    expect(err).toContain(message);
  });

  it('finds a bit that flipped in a torch file', async () => {
    const file = path.join(folder, 'flipped.pth');
    const bytes = readFileSync(fixture('tiny-world/concepts/edlora_smiley.pth'));
    bytes[Math.floor(bytes.length / 2)]! ^= 1;
    writeFileSync(file, bytes);
    expect(await inspect(file)).toMatchObject({ code: 3, out: '' });
  });

  it('says why an adapter is not measured, at once', async () => {
    const file = path.join(folder, 'lokr.safetensors');
    const name = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q';
    await writeSafetensors(file, [
      float32Tensor(`${name}.lokr_w1`, [100, 100], new Float32Array(10_000)),
      float32Tensor(`${name}.lokr_w2`, [100, 100], new Float32Array(10_000)),
    ]);
    const start = performance.now();
    const { notes } = await inspectJson(file);
    expect(performance.now() - start).toBeLessThan(5000);
    expect(notes.at(-1)).toMatch(/at most \[320, 320\], 102400 numbers.*got \[10000, 10000\], 100000000/);
  });

  it('refuses every hostile file in one line, without running it', async () => {
    const { files } = goldenJson<{ files: Record<string, { expect: string }> }>(
      'goldens/hostile/hostile.json',
    );
    for (const [name, { expect: verdict }] of Object.entries(files)) {
      const { code, out, err } = await inspect(goldenPath('goldens/hostile', name));
      if (verdict === 'load') expect(code, name).toBe(0);
      else if (verdict === 'refuse' || code !== 0) {
        expect({ name, code, out }).toEqual({ name, code: 3, out: '' });
        expect(err).toMatch(/^error: .+\n$/);
      }
    }
    const held = [...readdirSync(process.cwd()), ...readdirSync(goldenPath('goldens/hostile'))];
    expect(held.filter((name) => name.startsWith('golden_canary'))).toEqual([]);
    expect(existsSync(goldenPath('goldens/evil.txt'))).toBe(false);
  });
});

describe('files of a family with two text encoders', () => {
  it('are counted by each of them', async () => {
    const lora = await inspectJson(fixture('goldens-families/sdxl/lora/kohya_sgm_names.safetensors'));
    expect(Object.keys(lora.layers!)).toEqual(['text_encoder', 'text_encoder_2', 'unet']);
    const counted = Object.values(lora.layers!).flatMap((ranks) => Object.values(ranks));
    expect(3 * counted.reduce((sum, count) => sum + count, 0)).toBe(lora.tensorCount);
    const { out } = await inspect('--no-hash', fixture('goldens-families/sdxl/model'));
    expect(out).toMatch(/SDXL model \(diffusers folder\)/);
    expect(out).toMatch(/\n {2}text_encoder_2 [\d,]+ numbers/);
  });
});
