/** Model folders: configs of every network, schedules, tokenizers, and the folder as a whole. */

import { inspect } from '../../../src/concepts/inspect.ts';
import { bindConcepts } from '../../../src/concepts/prompt.ts';
import { openModelFiles } from '../../../src/merging/model-files.ts';
import { openT2iAdapter } from '../../../src/models/adapter/open.ts';
import { openCheckpoint } from '../../../src/models/checkpoint.ts';
import { textLayers } from '../../../src/models/clip/changeable-layers.ts';
import { openClipModel } from '../../../src/models/clip/clip-model.ts';
import { clipTextSchema } from '../../../src/models/clip/config.ts';
import { loadTokenizer } from '../../../src/models/clip/tokenizer.ts';
import { readConfig } from '../../../src/models/config-file.ts';
import { openControlNet } from '../../../src/models/controlnet/open.ts';
import { parseSchedulerJson, readScheduleKeys } from '../../../src/models/model-schedule.ts';
import { unetLayers } from '../../../src/models/unet/changeable-layers.ts';
import { unetSchema } from '../../../src/models/unet/config.ts';
import { crossAttentionNames } from '../../../src/models/unet/structure.ts';
import { vaeFactor, vaeSchema } from '../../../src/models/vae/config.ts';
import { checkpointSchedule } from '../../../src/sampling/checkpoint-schedule.ts';
import { noiseSchedule } from '../../../src/sampling/noise-schedule.ts';
import { createSampler, namedSamplerConfig, SAMPLER_NAMES } from '../../../src/sampling/samplers/create.ts';
import { resolveSchedulerConfig } from '../../../src/sampling/scheduler-config.ts';
import { attempt, type Seed, type SeedFile, type Target } from '../target.ts';
import { fixture, plain, safetensors, seedFile } from './seeds.ts';

const MODEL = 'tiny-world/model';
const json = (file: string, name = file): SeedFile => seedFile(name, 'json', fixture(`${MODEL}/${file}`));

const scheduler: Target = {
  name: 'scheduler-config',
  batch: 300,
  words: [
    ...[
      '_class_name',
      'beta_start',
      'beta_end',
      'beta_schedule',
      'trained_betas',
      'num_train_timesteps',
      'prediction_type',
    ],
    ...[
      'timestep_spacing',
      'steps_offset',
      'use_karras_sigmas',
      'rescale_betas_zero_snr',
      'solver_order',
      'algorithm_type',
    ],
    ...[
      'DDIMScheduler',
      'EulerDiscreteScheduler',
      'DPMSolverMultistepScheduler',
      'UniPCMultistepScheduler',
      'linear',
      'leading',
    ],
    ...[
      'squaredcos_cap_v2',
      'v_prediction',
      'final_sigmas_type',
      'lambda_min_clipped',
      'euler_at_final',
      'thresholding',
    ],
  ],
  seeds: async () => {
    const solver = {
      ...{
        _class_name: 'DPMSolverMultistepScheduler',
        beta_start: 0.001,
        beta_end: 0.012,
        beta_schedule: 'scaled_linear',
      },
      ...{
        num_train_timesteps: 100,
        solver_order: 2,
        algorithm_type: 'dpmsolver++',
        timestep_spacing: 'leading',
      },
      ...{
        prediction_type: 'v_prediction',
        use_karras_sigmas: true,
        steps_offset: 1,
        trained_betas: [0.1, 0.2, 0.3],
      },
    };
    return [
      [json('scheduler/scheduler_config.json', 'scheduler_config.json')],
      [seedFile('scheduler_config.json', 'json', JSON.stringify(solver))],
    ];
  },
  run: async ({ file, bytes, random }) => {
    const steps = random.pick([1, 2, 7]);
    await attempt(() => {
      const value = parseSchedulerJson(Buffer.from(bytes).toString('utf8'), file);
      const model = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
      return createSampler(namedSamplerConfig(random.pick(SAMPLER_NAMES), model, file), steps);
    });
    const keys = await readScheduleKeys(file);
    await attempt(() => checkpointSchedule({ schedule: { config: keys, file } }));
    const config = resolveSchedulerConfig(keys, file);
    await attempt(() => noiseSchedule(config));
    createSampler(config, steps);
  },
};

const configs: Target = {
  name: 'network-config',
  batch: 600,
  words: [
    'block_out_channels',
    'attention_head_dim',
    'down_block_types',
    'CrossAttnDownBlock2D',
    'layers_per_block',
    'vocab_size',
  ],
  seeds: async () => [
    [json('unet/config.json')],
    [json('vae/config.json')],
    [json('text_encoder/config.json')],
  ],
  run: async ({ file }) => {
    if (file.includes('unet')) {
      const config = await readConfig(file, unetSchema);
      unetLayers(config);
      crossAttentionNames(config);
    } else if (file.includes('vae')) vaeFactor(await readConfig(file, vaeSchema));
    else textLayers(await readConfig(file, clipTextSchema));
  },
};

const TOKENIZER = ['vocab.json', 'merges.txt', 'tokenizer_config.json', 'special_tokens_map.json'] as const;
const ADDED = JSON.stringify({ '<new0>': 32, '<new1>': 33 });

/** The smallest vocabulary: some bytes, some merges, begin and end. */
function smallVocabulary(): { vocab: string; merges: string } {
  const letters = [...'abcdefghijklmno'];
  const merges = ['a b', 'c d</w>', 'ab c', 'e f', 'g h</w>'];
  const words = [...letters, ...letters.slice(0, 10).map((letter) => `${letter}</w>`)];
  const all = [
    ...words,
    ...merges.map((merge) => merge.replace(' ', '')),
    '<|startoftext|>',
    '<|endoftext|>',
  ];
  return {
    vocab: JSON.stringify(Object.fromEntries(all.map((word, i) => [word, i]))),
    merges: `#version: 0.2\n${merges.join('\n')}\n`,
  };
}

const tokenizer: Target = {
  name: 'tokenizer',
  batch: 200,
  words: [
    '<|startoftext|>',
    '<|endoftext|>',
    'a</w>',
    'bos_token',
    'eos_token',
    'pad_token',
    'unk_token',
    'added_tokens_decoder',
  ],
  seeds: async (): Promise<Seed[]> => {
    const { vocab, merges } = smallVocabulary();
    const small = [seedFile('vocab.json', 'json', vocab), seedFile('merges.txt', 'text', merges)];
    const whole = {
      model: {
        type: 'BPE',
        end_of_word_suffix: '</w>',
        vocab: JSON.parse(vocab) as unknown,
        merges: ['a b', ['c', 'd</w>']],
      },
      added_tokens: [{ id: 31, content: '<|endoftext|>', special: true, normalized: false }],
    };
    const decoder = {
      added_tokens_decoder: { 32: { content: '<x>', special: false, normalized: true } },
      pad_token: '<|endoftext|>',
    };
    return [
      small,
      [...small, json('tokenizer/tokenizer_config.json', 'tokenizer_config.json')],
      [
        ...small,
        seedFile('added_tokens.json', 'json', ADDED),
        json('tokenizer/special_tokens_map.json', 'special_tokens_map.json'),
      ],
      [...small, seedFile('tokenizer_config.json', 'json', JSON.stringify(decoder))],
      [seedFile('tokenizer.json', 'json', JSON.stringify(whole))],
    ];
  },
  run: async ({ folder, random }) => {
    const loaded = await loadTokenizer(folder);
    const text = random.pick(['abc cd <new0> <x> ef', 'gh\u0000é İ <|endoftext|>', '', 'a'.repeat(300)]);
    const ids = loaded.encode(text);
    loaded.decode(ids);
    loaded.encodePadded(text);
    await attempt(() => loaded.withAddedTokens(['<y>', 'zz']).encode('<y> zz'));
    await attempt(() => bindConcepts(loaded, []).encode(text, { pad: true }));
  },
};

const folder: Target = {
  name: 'model-folder',
  batch: 100,
  words: ['_class_name', 'StableDiffusionXLPipeline', 'weight', 'conv_in.weight'],
  seeds: async (): Promise<Seed[]> => {
    const { vocab, merges } = smallVocabulary();
    const weights = (name: string, ...tensors: string[]): SeedFile =>
      safetensors(
        name,
        tensors.map((tensor) => plain(tensor, 2, 2)),
      );
    const tokenizerFiles = [
      seedFile('tokenizer/vocab.json', 'json', vocab),
      seedFile('tokenizer/merges.txt', 'text', merges),
      json(`tokenizer/${TOKENIZER[2]}`),
    ];
    const model = [
      json('model_index.json'),
      ...[json('unet/config.json'), json('vae/config.json'), json('text_encoder/config.json')],
      json('scheduler/scheduler_config.json'),
      weights(
        'unet/diffusion_pytorch_model.safetensors',
        'conv_in.weight',
        'down_blocks.0.resnets.0.conv1.weight',
      ),
      weights('vae/diffusion_pytorch_model.safetensors', 'encoder.conv_in.weight', 'decoder.conv_in.weight'),
      weights('text_encoder/model.safetensors', 'text_model.embeddings.token_embedding.weight'),
      ...tokenizerFiles,
    ];
    const single = [
      weights(
        'single.safetensors',
        'model.diffusion_model.input_blocks.0.0.weight',
        'cond_stage_model.transformer.text_model.embeddings.token_embedding.weight',
        'first_stage_model.encoder.conv_in.weight',
      ),
      seedFile('single.yaml', 'text', 'model: { params: { parameterization: v, linear_start: 0.00085 } }'),
      ...[json('unet/config.json'), ...tokenizerFiles],
    ];
    return [model, single];
  },
  run: async ({ folder: place, file, random }) => {
    const single = file.endsWith('.safetensors');
    const location = single ? file : place;
    if (random.chance(0.3)) await attempt(() => inspect(location));
    if (random.chance(0.3)) await attempt(() => openModelFiles(location));
    const checkpoint = await openCheckpoint(location, single ? { configFolder: place } : {});
    await checkpoint.parts.vae();
  },
};

const guides: Target = {
  name: 'guide-folder',
  batch: 200,
  words: [
    'adapter_type',
    'channels',
    'conditioning_embedding_out_channels',
    'vision_config',
    'text_config',
    'size',
    'crop_size',
  ],
  seeds: async (): Promise<Seed[]> => {
    const weights = (name: string): SeedFile => safetensors(name, [plain('conv_in.weight', 2, 2)]);
    const random = 'goldens/tiny-random';
    const { vocab, merges } = smallVocabulary();
    return [
      [
        seedFile('controlnet/config.json', 'json', fixture(`${random}/controlnet/config.json`)),
        weights('controlnet/diffusion_pytorch_model.safetensors'),
      ],
      [
        seedFile('t2i/config.json', 'json', fixture(`${random}/t2i_adapter/config.json`)),
        weights('t2i/diffusion_pytorch_model.safetensors'),
      ],
      [
        json('clip/config.json'),
        json('clip/preprocessor_config.json'),
        weights('clip/model.safetensors'),
        seedFile('clip/vocab.json', 'fixed', vocab),
        seedFile('clip/merges.txt', 'fixed', merges),
      ],
    ];
  },
  run: async ({ folder: place, file }) => {
    if (file.includes('controlnet')) await openControlNet(`${place}/controlnet`);
    else if (file.includes('t2i')) await openT2iAdapter(`${place}/t2i`);
    else await openClipModel(`${place}/clip`);
  },
};

export const modelTargets: readonly Target[] = [scheduler, configs, tokenizer, folder, guides];
