/** Settings files: our own, and Mix-of-Show's option files as they are. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import type { TrainingInput } from '../../src/training/options.ts';
import { trainingSettings } from '../../src/training/prepared-run.ts';
import { readTrainingFile } from '../../src/training/training-file.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-config-'));
  mkdirSync(path.join(folder, 'image'));
  mkdirSync(path.join(folder, 'cats'));
  for (const name of ['1.jpg', '2.jpg', '3.jpg', '3_mask.png'])
    writeFileSync(path.join(folder, 'image', name), '');
  write(
    'list.json',
    JSON.stringify([
      { instance_prompt: '<TOK>', instance_data_dir: 'image', caption_dir: 'caption', mask_dir: 'mask' },
    ]),
  );
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});
function write(name: string, content: string): string {
  const file = path.join(folder, name);
  writeFileSync(file, content);
  return file;
}

describe('our own', () => {
  it('reads settings, paths beside the file', async () => {
    const file = write(
      'own.yaml',
      'base: model\ndata: pictures\nmasks: masks\nlrUnet: 1e-4\nrankPattern: {attn2: 8}\n',
    );
    expect(await readTrainingFile(file)).toEqual({
      base: path.join(folder, 'model'),
      settings: {
        data: path.join(folder, 'pictures'),
        masks: path.join(folder, 'masks'),
        lrUnet: 1e-4,
        rankPattern: { attn2: 8 },
      },
      notes: [],
    });
  });
  it('names what is wrong', async () => {
    await expect(readTrainingFile(write('a.yaml', 'stepz: 3\nbatch: two'))).rejects.toThrow(
      /batch: .*unknown key "stepz"; did you mean "steps"\?/,
    );
    await expect(readTrainingFile(write('b.yaml', '- 1'))).rejects.toThrow('expected settings by name');
    await expect(readTrainingFile(write('c.yaml', 'a: [1'))).rejects.toThrow('neither JSON nor YAML');
    await expect(readTrainingFile(path.join(folder, 'none.yaml'))).rejects.toThrow(
      'expected a settings file',
    );
  });
});

/** In the form of their options, two processes with one picture each. */
const THEIRS = `
name: EDLoRA_cat
num_gpu: 2
manual_seed: 7
mixed_precision: fp16
gradient_accumulation_steps: 1
surprise: 1
datasets:
  train:
    name: LoraDataset
    concept_list: list.json
    use_caption: true
    use_mask: true
    instance_transform:
      - { type: HumanResizeCropFinalV3, size: 512, crop_p: 0.5 }
      - { type: ToTensor }
      - { type: Normalize, mean: [ 0.5 ], std: [ 0.5 ] }
      - { type: ShuffleCaption, keep_token_num: 1 }
      - { type: EnhanceText, enhance_type: human }
    replace_mapping:
      <TOK>: <cat1> <cat2>
    batch_size_per_gpu: 1
    dataset_enlarge_ratio: 100
  val_vis:
    name: PromptDataset
models:
  pretrained_path: model
  enable_edlora: true
  finetune_cfg:
    text_embedding:
      enable_tuning: true
      lr: !!float 1e-3
    text_encoder:
      enable_tuning: true
      lora_cfg: { rank: 4, alpha: 1.0, where: CLIPAttention }
      lr: !!float 1e-5
    unet:
      enable_tuning: true
      lora_cfg: { rank: 4, alpha: 1.0, where: Transformer2DModel }
      lr: !!float 1e-4
  new_concept_token: <cat1>+<cat2>
  initializer_token: <rand-0.013>+cat
  noise_offset: 0.01
  attn_reg_weight: 0.02
  reg_full_identity: false
  use_mask_loss: true
  gradient_checkpoint: true
  enable_xformers: true
path:
  pretrain_network: ~
train:
  optim_g: { type: AdamW, lr: !!float 0.0, weight_decay: 0.02, betas: [ 0.9, 0.999 ] }
  unet_kv_drop_rate: 0.2
  scheduler: linear
  emb_norm_threshold: !!float 5.5e-1
val: { val_during_save: true }
logger: { print_freq: 10 }
`;

describe("Mix-of-Show's", () => {
  it('means what it meant there', async () => {
    const { settings, base, notes } = await readTrainingFile(write('theirs.yml', THEIRS));
    expect(settings).toMatchObject({
      method: 'ed-lora',
      data: path.join(folder, 'image'),
      prompt: '<TOK>',
      token: '<cat1>+<cat2>',
      init: '<rand-0.013>+cat',
      seed: 7,
      // 3 pictures · 100 repetitions / 2 a step
      steps: 150,
      batch: 2,
      lrEmbedding: 1e-3,
      lrText: 1e-5,
      lrUnet: 1e-4,
      rank: 4,
      alpha: 1,
      layers: 'transformer',
      textLayers: 'attention',
      noiseOffset: 0.01,
      attentionWeight: 0.02,
      fullIdentity: false,
      checkpointBlocks: true,
      weightDecay: 0.02,
      kvDrop: 0.2,
      normStop: 0.55,
      schedule: 'linear',
      resolution: 512,
      shuffleCaptions: true,
      keepParts: 1,
      templates: 'object',
    });
    expect(base).toMatch(/model$/);
    expect(notes).toContain('surprise: unknown key, read over');
    expect(notes.some((note) => note.startsWith('mixed_precision: no effect'))).toBe(true);
    expect(notes.some((note) => note.includes('HumanResizeCropFinalV3'))).toBe(true);
    expect(notes.filter((note) => note.includes('unknown'))).toHaveLength(1);
    expect(trainingSettings(settings as TrainingInput).method.name).toBe('ed-lora');
  });

  const lora = (text: string): string => text.replace('enable_edlora: true', 'enable_edlora: false');
  it('multiplies by alpha alone, whatever the rank', async () => {
    const { settings } = await readTrainingFile(write('lora.yml', lora(THEIRS)));
    // alpha / rank here
    expect(settings).toMatchObject({ method: 'lora', rank: 4, alpha: 4 });
    const uneven = lora(THEIRS).replace(
      'rank: 4, alpha: 1.0, where: CLIP',
      'rank: 16, alpha: 0.5, where: CLIP',
    );
    expect((await readTrainingFile(write('uneven.yml', uneven))).settings).toMatchObject({
      rank: 4,
      alpha: 4,
      rankPattern: { text_model: 16 },
      alphaPattern: { text_model: 8 },
    });
    const unsaid = lora(THEIRS).replaceAll(/rank: 4, alpha: 1.0/g, 'rank: 8');
    expect((await readTrainingFile(write('unsaid.yml', unsaid))).settings).toMatchObject({
      rank: 8,
      alpha: 8,
    });
  });

  it('has no masks in the loss unless it says so', async () => {
    const unsaid = THEIRS.replace('  use_mask_loss: true\n', '').replace('  attn_reg_weight: 0.02\n', '');
    expect((await readTrainingFile(write('unmasked.yml', unsaid))).settings.masks).toBe('none');
  });

  /** The first layout of their files. */
  const FIRST = THEIRS.replace('models:', 'network_g:\n  type: EDLoRA').replace(
    / {2}(enable_edlora|use_mask_loss|attn_reg_weight): .*\n/g,
    '',
  );
  it('of the first layout says its steps and schedule, and looks at masks', async () => {
    const constant = FIRST.replace('scheduler: linear', 'scheduler: { type: ConstantLR }\n  total_iter: 321');
    expect((await readTrainingFile(write('first.yml', constant))).settings).toMatchObject({
      method: 'ed-lora',
      steps: 321,
      schedule: 'constant',
      masks: path.resolve('mask'),
    });
    // The second layout counts its steps from the data and is always linear.
    const second = THEIRS.replace('scheduler: linear', 'scheduler: { type: ConstantLR }\n  total_iter: 321');
    const { settings, notes } = await readTrainingFile(write('second.yml', second));
    expect(settings).toMatchObject({ steps: 150, schedule: 'linear' });
    for (const key of ['train.scheduler.type', 'train.total_iter']) {
      expect(notes.filter((note) => note.startsWith(`${key}: no effect`))).toHaveLength(1);
    }
  });

  it('may be of Custom Diffusion, or of a network that is not trained here', async () => {
    write(
      'class-list.json',
      JSON.stringify([
        {
          instance_prompt: 'photo of a <TOK>',
          instance_data_dir: 'image',
          class_prompt: 'cat',
          class_data_dir: 'cats',
        },
      ]),
    );
    const custom = `
network_g:
  type: Custom_Diffusion
  pretrained_path: model
  modifier_token: <face>
  initializer_token: circle
  finetune_params: crossattn_kv
  prior_loss_weight: 0.5
datasets:
  train:
    concept_list: class-list.json
    size: 64
    with_prior_preservation: true
    num_class_images: 2
    hflip: true
    batch_size_per_gpu: 2
train:
  optim_g: { type: AdamW, lr: 0.00002, weight_decay: 0.01, scale_lr: true }
  scheduler: { type: ConstantLR }
  total_iter: 5
`;
    const { settings } = await readTrainingFile(write('custom.yml', custom));
    expect(settings).toMatchObject({
      method: 'custom-diffusion',
      token: '<face>',
      init: 'circle',
      classPrompt: 'cat',
      classData: path.join(folder, 'cats'),
      classImages: 2,
      priorWeight: 0.5,
      resolution: 64,
      flip: true,
      steps: 5,
      batch: 2,
      lrEmbedding: 4e-5,
      lrUnet: 4e-5,
    });
    expect(trainingSettings(settings as TrainingInput).method.name).toBe('custom-diffusion');
    const alone = custom.replace('with_prior_preservation: true', 'with_prior_preservation: false');
    expect((await readTrainingFile(write('alone.yml', alone))).settings.priorWeight).toBe(0);
    await expect(
      readTrainingFile(write('other.yml', custom.replace('Custom_Diffusion', 'Dreambooth'))),
    ).rejects.toThrow('network_g.type: expected EDLoRA, LoRA, Custom_Diffusion, got Dreambooth');
  });

  it('switches parts off, and refuses what it cannot read', async () => {
    const plain = THEIRS.replace('enable_edlora: true', 'enable_edlora: false').replace(
      /text_encoder:\n {6}enable_tuning: true/,
      'text_encoder:\n      enable_tuning: false',
    );
    const { settings } = await readTrainingFile(write('plain.yml', plain));
    expect(settings).toMatchObject({ method: 'lora', lrText: 0, lrUnet: 1e-4 });
    await expect(
      readTrainingFile(write('bad.yml', THEIRS.replace('list.json', 'nowhere.json'))),
    ).rejects.toThrow('expected a JSON list of folders');
    await expect(
      readTrainingFile(write('worse.yml', THEIRS.replace('manual_seed: 7', 'manual_seed: many'))),
    ).rejects.toThrow('manual_seed');
  });

  it.each([
    [
      'no pictures a step',
      'batch_size_per_gpu: 1',
      'batch_size_per_gpu: 0',
      /batch: expected 1 … 1024, got 0/,
    ],
    [
      'a list for a number',
      'num_gpu: 2',
      'num_gpu: [2]',
      /num_gpu: expected another kind of value, got a list of 1/,
    ],
    ['infinity', 'noise_offset: 0.01', 'noise_offset: .inf', /noise_offset: expected another kind/],
    ['a rank beyond any layer', 'rank: 4', 'rank: 1e9', /rank: expected 1 … 5120/],
    ['a key twice', 'num_gpu: 2', 'num_gpu: 2\nnum_gpu: 3', /the key "num_gpu" is there twice/],
  ])('refuses %s', async (_, from, to, message) => {
    const reading = readTrainingFile(write('odd.yml', THEIRS.replaceAll(from, to)));
    await expect(reading).rejects.toThrow(FormatError);
    await expect(reading).rejects.toThrow(message);
  });
});

describe('settings', () => {
  it.each(
    [
      ['steps: 1e9', /steps: expected 1 … 10000000, got 1000000000/],
      ['batch: 0', /batch: expected 1 … 1024, got 0/],
      ['resolution: 16384', /resolution: expected 8 … 2048, got 16384/],
      ['lrUnet: .nan', /lrUnet: /],
      ['lrUnet: 1e309', /lrUnet: /],
      ['captionDropout: 1.5', /captionDropout: expected 0 … 1, got 1.5/],
      ['seed: 1e300', /seed: /],
      ['data: "a\\0b"', /data: expected a path without NUL/],
      [`prompt: ${'x'.repeat(10_001)}`, /prompt: expected at most 10000 characters, got 10001/],
      ['rankPattern: { __proto__: 1 }', /"__proto__" is not accepted/],
      ['constructor: 1', /unknown key "constructor"/],
      [Array.from({ length: 13_000 }, (_, i) => `k${i}: 1`).join('\n'), /and 12980 more/],
    ].map(([text, message]) => ({ text: text as string, message: message as RegExp })),
  )('outside their range are refused: $message', async ({ text, message }) => {
    const reading = readTrainingFile(write('range.yaml', text));
    await expect(reading).rejects.toThrow(FormatError);
    await expect(reading).rejects.toThrow(message);
  });

  it.skipIf(process.platform === 'win32')('are not read from a device', async () => {
    await expect(readTrainingFile('/dev/zero')).rejects.toThrow(/got a device or a pipe/);
  });
});
