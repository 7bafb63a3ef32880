/**
 * Adapters of every scheme: read as concept, as adapter, as embeddings; fitted to a base; converted, merged or resized,
 * and the result read back, which must be possible.
 */
import path from 'node:path';
import { loadAdapter } from '../../../src/adapters/read.ts';
import { positionalLayers } from '../../../src/adapters/schemes/cloneofsimo.ts';
import { layerFormats } from '../../../src/adapters/schemes/index.ts';
import { XTI_KEYS } from '../../../src/adapters/schemes/textual-inversion.ts';
import { wordFormats } from '../../../src/adapters/words.ts';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { loadEmbeddings } from '../../../src/concepts/embedding-file.ts';
import { checkFinite } from '../../../src/concepts/finite.ts';
import { conceptDeltas } from '../../../src/concepts/fit.ts';
import { inspect } from '../../../src/concepts/inspect.ts';
import { bindConcepts } from '../../../src/concepts/prompt.ts';
import { describeAdapter } from '../../../src/merging/adapter-report.ts';
import { foreignMergeNames } from '../../../src/merging/foreign-merges.ts';
import { convertFile } from '../../../src/merging/jobs/convert-file.ts';
import { mergeFiles } from '../../../src/merging/jobs/merge-files.ts';
import { resizeFile } from '../../../src/merging/jobs/resize-file.ts';
import { lintMerge } from '../../../src/merging/lint.ts';
import { mergeMethodNames } from '../../../src/merging/methods/index.ts';
import { verifyFile } from '../../../src/merging/verify.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import { defaultBase } from '../../../src/package-root.ts';
import type { PlainTensor } from '../mutate/safetensors.ts';
import { attempt, expectReadable, Finding, type Input, type Seed, type Target } from '../target.ts';
import { fixture, plain, safetensors, seedFile, torch, torchZip } from './seeds.ts';

let base: Promise<Checkpoint> | undefined;

/** The shipped miniature, opened once. */
export function miniature(): Promise<Checkpoint> {
  base ??= openCheckpoint(defaultBase());
  return base;
}

/** Read what a job wrote. @throws Finding unless it has the layers that the job speaks of */
async function readBack(what: string, file: string, layers: number): Promise<void> {
  const adapter = await expectReadable(what, () => loadAdapter(file));
  if (adapter.layers.size !== layers) {
    throw new Finding(`${what}: ${layers} layers were written, ${adapter.layers.size} are read back`);
  }
}

async function exercise({ file, folder, out, random }: Input): Promise<void> {
  const location = path.basename(file) === 'adapter_config.json' ? folder : file;
  await attempt(() => inspect(location, { hash: random.chance(0.1) }));
  const concept = await attempt(() => loadConcept(location));
  if (concept !== undefined) {
    const model = await miniature();
    await attempt(() => checkFinite(concept));
    await attempt(() => conceptDeltas(model, concept, { convolutions: true }));
    await attempt(() => bindConcepts(model.tokenizer, [concept]).encode('a <a> <b> c', { pad: true }));
    await attempt(() => bindConcepts(model.tokenizer, [concept]).embeddingRows('text_encoder'));
  }
  if (random.chance(0.2)) await attempt(async () => loadEmbeddings(location, await miniature()));
  if (random.chance(0.1)) await attempt(() => verifyFile(location, { rebuild: false }));
  const adapter = await loadAdapter(location);
  await attempt(() => describeAdapter(adapter));
  const drop = random.chance(0.7);
  const noMetadata = random.chance(0.3);
  const choice = random.below(10);
  if (choice === 0) {
    const format = random.pick(layerFormats);
    const target = path.join(out, 'merged.safetensors');
    const input = {
      path: location,
      strength: random.pick([1, -0.5, 0]),
      textEncoderStrength: null,
      blockWeights: null,
    };
    const result = await mergeFiles({
      ...{ inputs: [input, { ...input, strength: 0.7 }], out: target, drop, noMetadata, format, seed: 1 },
      method: random.pick(mergeMethodNames),
      rank: random.pick([null, 1, 3]),
      density: 0.5,
    });
    await readBack(`merged as ${format}`, target, result.layers);
    return;
  }
  if (choice === 1) {
    const target = path.join(out, 'resized.safetensors');
    const result = await resizeFile({
      input: location,
      out: target,
      drop,
      noMetadata,
      rule: { kind: 'rank' },
      rank: 1,
    });
    await readBack('resized', target, result.layers);
    return;
  }
  if (choice === 2) {
    await lintMerge(
      [
        { adapter, strength: 1 },
        { adapter, strength: 0.5 },
      ],
      random.pick(foreignMergeNames),
    );
    return;
  }
  const format = random.chance(adapter.layers.size === 0 ? 0.8 : 0.1)
    ? random.pick(wordFormats)
    : random.pick(layerFormats);
  const ending =
    format === 'peft' ? '' : random.pick(['.safetensors', '.safetensors', '.safetensors', '.pt']);
  const target = path.join(out, `converted${ending}`);
  const dtype = random.pick(['F32', 'F32', 'F16', 'BF16'] as const);
  const result = await convertFile({ input: location, out: target, format, drop, noMetadata, dtype });
  await readBack(`converted to ${format} (${ending || 'folder'})`, target, result.layers);
}

const Q = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q';
const K = 'down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k';
const TEXT = 'text_model.encoder.layers.0.self_attn.q_proj';
const RESNET = 'down_blocks.0.resnets.0.conv1';
const flat = (name: string): string => name.replaceAll('.', '_');
const RECIPE = JSON.stringify({
  ...{ tool: 'edlora', kind: 'convert', options: { format: 'kohya', drop: false } },
  inputs: [{ path: 'a.safetensors', files: [{ path: 'a.safetensors', sha256: '00' }], settings: {} }],
});
const HEADER = {
  ss_network_dim: '2',
  ss_network_alpha: '1',
  ss_tag_frequency: '{"1_cat": {"cat": 3}}',
  'modelspec.title': 'a',
  sshs_model_hash: 'abcd',
  'edlora.recipe': RECIPE,
};

const LYCORIS_SUFFIXES = [
  ...[
    'alpha',
    'dora_scale',
    'hada_w1_a',
    'hada_w1_b',
    'hada_t1',
    'lokr_w1',
    'lokr_w1_a',
    'lokr_w1_b',
    'lokr_w2',
    'lokr_t2',
  ],
  ...[
    'diff',
    'diff_b',
    'on_input',
    'weight',
    'lora_mid.weight',
    'lora_up.weight',
    'lora_down.weight',
    'oft_blocks',
    'w_norm',
  ],
];

function target(
  name: string,
  batch: number,
  words: readonly string[],
  seeds: () => Promise<readonly Seed[]>,
): Target {
  return { name, batch, words, seeds, run: exercise };
}

const pair = (prefix: string, m: number, n: number, up: string, down: string, rank = 2): PlainTensor[] => [
  plain(`${prefix}.${down}`, rank, n),
  plain(`${prefix}.${up}`, m, rank),
];
const scalar = (name: string, value: number): PlainTensor => {
  return { name, dtype: 'F32', shape: [], data: Buffer.from(Float32Array.of(value).buffer) };
};
const kohyaPair = (prefix: string, m: number, n: number): PlainTensor[] => [
  ...pair(prefix, m, n, 'lora_up.weight', 'lora_down.weight'),
  scalar(`${prefix}.alpha`, 1),
];
const unet = (name: string): string => `lora_unet_${flat(name)}`;

const kohya = target('kohya', 60, [...LYCORIS_SUFFIXES, ...Object.keys(HEADER)], async () => [
  [
    safetensors(
      'a.safetensors',
      [
        ...kohyaPair(unet(Q), 32, 32),
        ...kohyaPair(unet(K), 32, 64),
        ...kohyaPair(`lora_te_${flat(TEXT)}`, 64, 64),
      ],
      HEADER,
    ),
  ],
  [
    safetensors('conv.safetensors', [
      ...[
        plain(`${unet(RESNET)}.lora_down.weight`, 1, 32, 3, 3),
        plain(`${unet(RESNET)}.lora_up.weight`, 32, 1, 1, 1),
      ],
      plain('bundle_emb.cat.string_to_param.*', 2, 64),
    ]),
  ],
  [
    safetensors('ldm.safetensors', [
      ...kohyaPair('lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q', 32, 32),
      ...kohyaPair('lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k', 64, 64),
    ]),
  ],
  [
    safetensors('sdxl.safetensors', [
      ...kohyaPair('lora_te2_text_model_encoder_layers_0_self_attn_q_proj', 8, 8),
      ...kohyaPair('lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k', 8, 16),
    ]),
  ],
]);

const lycoris = target('lycoris', 60, LYCORIS_SUFFIXES, async () => [
  [
    safetensors('loha.safetensors', [
      ...[plain(`${unet(Q)}.hada_w1_a`, 32, 2), plain(`${unet(Q)}.hada_w1_b`, 2, 32)],
      ...[
        plain(`${unet(Q)}.hada_w2_a`, 32, 2),
        plain(`${unet(Q)}.hada_w2_b`, 2, 32),
        scalar(`${unet(Q)}.alpha`, 1),
      ],
    ]),
  ],
  [
    safetensors('lokr.safetensors', [
      ...[
        plain(`${unet(Q)}.lokr_w1`, 4, 4),
        plain(`${unet(Q)}.lokr_w2_a`, 8, 2),
        plain(`${unet(Q)}.lokr_w2_b`, 2, 8),
      ],
      ...[plain(`${unet(K)}.lokr_w1`, 4, 8), plain(`${unet(K)}.lokr_w2`, 8, 8)],
    ]),
  ],
  [
    safetensors('tucker.safetensors', [
      ...[plain(`${unet(RESNET)}.hada_w1_a`, 2, 8), plain(`${unet(RESNET)}.hada_w1_b`, 2, 8)],
      ...[plain(`${unet(RESNET)}.hada_w2_a`, 2, 8), plain(`${unet(RESNET)}.hada_w2_b`, 2, 8)],
      ...[plain(`${unet(RESNET)}.hada_t1`, 2, 2, 3, 3), plain(`${unet(RESNET)}.hada_t2`, 2, 2, 3, 3)],
    ]),
  ],
  [
    safetensors('more.safetensors', [
      ...[plain(`${unet(Q)}.diff`, 32, 32), plain(`${unet(Q)}.diff_b`, 32)],
      ...[
        plain(`${unet(K)}.weight`, 32),
        { ...plain(`${unet(K)}.on_input`, 1), dtype: 'U8' as const, data: Buffer.of(0), shape: [] },
      ],
    ]),
  ],
  [
    safetensors('dora.safetensors', [
      ...kohyaPair(unet(K), 32, 64),
      plain(`${unet(K)}.dora_scale`, 1, 64),
      ...[
        plain(`${unet(RESNET)}.lora_mid.weight`, 1, 1, 3, 3),
        plain(`${unet(RESNET)}.lora_up.weight`, 8, 1, 1, 1),
      ],
      plain(`${unet(RESNET)}.lora_down.weight`, 1, 8, 1, 1),
    ]),
  ],
]);

/** Small files of layers that are large once multiplied. */
const large = target('large-adapter', 20, LYCORIS_SUFFIXES, async () => [
  [
    safetensors('lokr.safetensors', [
      plain(`${unet(Q)}.lokr_w1`, 90, 90),
      plain(`${unet(Q)}.lokr_w2`, 90, 90),
    ]),
  ],
  [
    safetensors('thin.safetensors', [
      plain(`${unet(Q)}.lora_down.weight`, 1, 20_000),
      plain(`${unet(Q)}.lora_up.weight`, 20_000, 1),
    ]),
  ],
  [
    safetensors('deep.safetensors', [
      plain(`${unet(Q)}.lora_down.weight`, 20_000, 1),
      plain(`${unet(Q)}.lora_up.weight`, 1, 20_000),
    ]),
  ],
  [
    safetensors('loha.safetensors', [
      ...[plain(`${unet(Q)}.hada_w1_a`, 9000, 1), plain(`${unet(Q)}.hada_w1_b`, 1, 9000)],
      ...[plain(`${unet(Q)}.hada_w2_a`, 9000, 1), plain(`${unet(Q)}.hada_w2_b`, 1, 9000)],
    ]),
  ],
]);

const SCALING = JSON.stringify({
  ...{
    'unet.r': 2,
    'unet.lora_alpha': 1,
    'unet.rank_pattern': {},
    'unet.alpha_pattern': { [K]: 3 },
    'unet.use_rslora': false,
  },
});
const diffusers = target(
  'diffusers',
  60,
  ['lora_adapter_metadata', 'lora_A.weight', 'lora.up.weight', 'alpha'],
  async () => [
    [
      safetensors(
        'new.safetensors',
        [
          ...pair(`unet.${Q}`, 32, 32, 'lora_B.weight', 'lora_A.weight'),
          ...pair(`text_encoder.${TEXT}`, 64, 64, 'lora_B.weight', 'lora_A.weight'),
        ],
        { lora_adapter_metadata: SCALING },
      ),
    ],
    [
      safetensors('mid.safetensors', [
        ...pair(`unet.${K}`, 32, 64, 'lora.up.weight', 'lora.down.weight'),
        ...pair(
          `text_encoder.${TEXT}`,
          64,
          64,
          'lora_linear_layer.up.weight',
          'lora_linear_layer.down.weight',
        ),
      ]),
    ],
    [
      safetensors(
        'old.safetensors',
        pair(`unet.${Q.replace(/\.to_q$/, '.processor.to_q_lora')}`, 32, 32, 'up.weight', 'down.weight'),
      ),
    ],
  ],
);

const PEFT_CONFIG = JSON.stringify({
  ...{
    peft_type: 'LORA',
    r: 2,
    lora_alpha: 4,
    rank_pattern: {},
    alpha_pattern: { [`${K}`]: 8 },
    use_rslora: false,
  },
  ...{ use_dora: false, bias: 'none', target_modules: ['to_q', 'to_k'], fan_in_fan_out: false },
});
const peft = target(
  'peft',
  60,
  [
    'r',
    'lora_alpha',
    'rank_pattern',
    'alpha_pattern',
    'use_rslora',
    'use_dora',
    'peft_type',
    'lora_magnitude_vector',
  ],
  async () => {
    const weights = [
      ...pair(`base_model.model.${Q}`, 32, 32, 'lora_B.weight', 'lora_A.weight'),
      ...pair(`base_model.model.${K}`, 32, 64, 'lora_B.weight', 'lora_A.weight'),
    ];
    const text = pair(`base_model.model.${TEXT}`, 64, 64, 'lora_B.weight', 'lora_A.weight');
    return [
      [
        seedFile('adapter_config.json', 'json', PEFT_CONFIG),
        safetensors('adapter_model.safetensors', weights),
      ],
      [
        seedFile('adapter_config.json', 'json', PEFT_CONFIG.replace('"use_dora":false', '"use_dora":true')),
        safetensors('adapter_model.safetensors', [
          ...weights,
          plain(`base_model.model.${Q}.lora_magnitude_vector`, 32),
        ]),
        seedFile('text_encoder/adapter_config.json', 'json', PEFT_CONFIG),
        safetensors('text_encoder/adapter_model.safetensors', text),
      ],
    ];
  },
);

const edLora = target(
  'ed-lora',
  60,
  ['new_concept_embedding.<a>', '<b>', 'edlora.tokens', 'params'],
  async () => {
    const layers = new Map([
      [`${K}.lora_down.weight`, torch(2, 64)],
      [`${K}.lora_up.weight`, torch(32, 2)],
    ]);
    const text = new Map([
      [`${TEXT}.lora_down.weight`, torch(2, 64)],
      [`${TEXT}.lora_up.weight`, torch(64, 2)],
    ]);
    const words = new Map([
      ['<a>', torch(16, 64)],
      ['<b>', torch(16, 64)],
    ]);
    const params = new Map([
      ['new_concept_embedding', words],
      ['text_encoder', text],
      ['unet', layers],
    ]);
    return [
      [await torchZip('a.pth', new Map([['params', params]]))],
      [await torchZip('bare.pth', params)],
      [
        safetensors(
          'a.safetensors',
          [
            ...[plain('new_concept_embedding.<a>', 16, 64), plain('new_concept_embedding.<b>', 16, 64)],
            ...pair(`unet.${K}`, 32, 64, 'lora_up.weight', 'lora_down.weight'),
          ],
          { 'edlora.tokens': '["<b>","<a>"]', 'edlora.recipe': RECIPE },
        ),
      ],
    ];
  },
);

const cloneofsimo = target(
  'cloneofsimo',
  30,
  ['<c>', 'unet:0:rank', '<embed>', 'text_encoder:4:up'],
  async () => {
    const numbered = (component: string, count: number): PlainTensor[] =>
      Array.from({ length: count }, (_, i) => [
        plain(`${component}:${i}:up`, 4, 1),
        plain(`${component}:${i}:down`, 1, 4),
      ]).flat();
    return [
      [
        safetensors('text.safetensors', [...numbered('text_encoder', 4), plain('<c>', 8)], {
          text_encoder: '["CLIPAttention"]',
          'text_encoder:0:rank': '1',
          '<c>': '<embed>',
        }),
      ],
      [
        safetensors('text8.safetensors', [...numbered('text_encoder', 8)], {
          text_encoder: '["CLIPAttention"]',
        }),
      ],
      [
        safetensors('unet.safetensors', numbered('unet', positionalLayers('unet', 2).length), {
          unet: '["CrossAttention"]',
        }),
      ],
    ];
  },
);

const textualInversion = target(
  'textual-inversion',
  60,
  ['emb_params', 'string_to_param.*', 'clip_l', 'clip_g', '<c>', ...XTI_KEYS.slice(0, 3), 'name'],
  async () => [
    [safetensors('diffusers.safetensors', [plain('<c>', 64), plain('<d>', 2, 64)])],
    [safetensors('kohya.safetensors', [plain('emb_params', 2, 64)], { name: 'c' })],
    [safetensors('sdxl.safetensors', [plain('clip_l', 1, 64), plain('clip_g', 1, 96)])],
    [
      safetensors(
        'xti.safetensors',
        XTI_KEYS.map((key) => plain(key, 1, 64)),
      ),
    ],
    [safetensors('layers.safetensors', [plain('<c>', 16, 64)])],
    [seedFile('a1111.pt', 'torch-zip', fixture('goldens/formats/a1111_embedding.pt'))],
    [seedFile('learned.bin', 'torch-zip', fixture('goldens/formats/learned_embeds_multi.bin'))],
    [seedFile('legacy.bin', 'torch-legacy', fixture('goldens/formats/learned_embeds_legacy.bin'))],
    [seedFile('ldm.pt', 'torch-zip', fixture('goldens/formats/ldm_embedding_parameterdict.pt'))],
  ],
);

const customDiffusion = target(
  'custom-diffusion',
  60,
  ['modifier_token.<n>', 'embed.<n>', 'weight.u', 'u', 'v'],
  async () => [
    [safetensors('whole.safetensors', [plain(`unet.${K}.weight`, 8, 16), plain('modifier_token.<n>', 64)])],
    [
      safetensors('compressed.safetensors', [
        plain(`${K}.u`, 8, 2),
        plain(`${K}.v`, 2, 16),
        plain('modifier_token.<n>', 64),
      ]),
    ],
    [
      await torchZip(
        'delta.bin',
        new Map([
          ['unet', new Map([[`${K}.weight`, torch(8, 16)]])],
          ['modifier_token', new Map([['<n>', torch(64)]])],
        ]),
      ),
    ],
    [
      safetensors('ldm.safetensors', [
        plain(
          'state_dict.model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight',
          8,
          16,
        ),
        plain('embed.<n>', 1, 64),
      ]),
    ],
  ],
);

export const adapterTargets: readonly Target[] = [
  kohya,
  lycoris,
  large,
  diffusers,
  peft,
  edLora,
  cloneofsimo,
  textualInversion,
  customDiffusion,
];
