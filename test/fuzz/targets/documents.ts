/** Documents in JSON and YAML: recipes, reports, scenes, lists of concepts, training settings. */
import path from 'node:path';
import { readManifest } from '../../../src/concepts/manifest.ts';
import { comparePage } from '../../../src/evaluation/compare-page.ts';
import { type EvaluationReport, readEvaluationReport } from '../../../src/evaluation/evaluation-report.ts';
import { evaluationPage } from '../../../src/evaluation/report-page.ts';
import { DEFAULTS } from '../../../src/fusion/options.ts';
import { planFusion } from '../../../src/fusion/plan.ts';
import { readFusionRecipe, recipeConcepts } from '../../../src/fusion/repeat.ts';
import { openSceneModel, type SceneModel } from '../../../src/sampling/model-source.ts';
import { normalScene } from '../../../src/sampling/scene.ts';
import { readSceneFile } from '../../../src/sampling/scene-file.ts';
import { prepareScene } from '../../../src/sampling/scene-request.ts';
import type { TrainingInput } from '../../../src/training/options.ts';
import { trainingSettings } from '../../../src/training/prepared-run.ts';
import { readTrainingFile } from '../../../src/training/training-file.ts';
import { attempt, type Seed, type Target } from '../target.ts';
import { miniature } from './adapters.ts';
import { PNG } from './pictures.ts';
import { fixture, fixturePath, plain, safetensors, seedFile } from './seeds.ts';

const SMILEY = 'tiny-world/concepts/edlora_smiley.pth';

const recipe: Target = {
  name: 'recipe',
  batch: 200,
  words: [
    ...Object.keys(DEFAULTS),
    'text',
    'cross',
    'spatial',
    'auto',
    'fused',
    'own',
    'gradient',
    'kohya',
    'peft',
  ],
  seeds: async () => {
    const content = {
      ...{
        tool: 'edlora',
        kind: 'fusion',
        versions: { edlora: '0.1.0', node: '20.0.0', onnxruntime: '1.30.0' },
      },
      base: { path: 'model', files: [{ path: 'model/unet/a.safetensors', sha256: 'aa' }] },
      concepts: [
        {
          ...{ path: 'edlora_smiley.pth', name: '<smiley1> <smiley2>', words: ['<smiley1>', '<smiley2>'] },
          ...{
            unetStrength: 1,
            textEncoderStrength: 0.8,
            files: [{ path: 'edlora_smiley.pth', sha256: 'bb' }],
          },
        },
      ],
      ...{ options: DEFAULTS, captions: ['photo of a dog', ''], naming: 'kohya' },
    };
    return [[seedFile('recipe.json', 'json', JSON.stringify(content))]];
  },
  run: async ({ folder, random }) => {
    const read = await readFusionRecipe(folder);
    if (random.chance(0.9)) return;
    const concepts = await recipeConcepts(read, () => fixturePath(SMILEY));
    await planFusion({
      base: await miniature(),
      concepts,
      options: read.options,
      preserveCaptions: read.captions,
    });
  },
};

const interval = { mean: 0.5, low: 0.4, high: 0.6 };
const alignments = { image: interval, text: interval };
const REPORT: EvaluationReport = {
  ...{
    tool: 'edlora',
    kind: 'evaluation',
    version: '0.1.0',
    base: 'model',
    clip: 'clip',
    concept: '<a> <b>',
  },
  ...{ prompts: ['photo of a <TOK>'], references: ['../a.png'], referenceAlignment: 0.7, elapsedMs: 12 },
  settings: { samples: 1, seed: 0, steps: 4, guidanceScale: 4, sampler: 'dpmpp-2m', width: 64, height: 64 },
  variants: ['base', 'fused'].map((name) => ({
    ...{
      name,
      words: '<a>',
      description: 'd',
      ...alignments,
      difference: name === 'base' ? null : alignments,
    },
    samples: [{ prompt: 0, seed: 0, file: 'pictures/a/000.png', imageAlignment: 0.5, textAlignment: 0.25 }],
  })),
  scoring: { pictures: 2, elapsedMs: 3 },
  styleMix: {
    a: '<a>',
    b: '<b>',
    order: [0, 1],
    points: [{ switched: 0, toA: 0.5, toB: 0.4, files: ['pictures/m/0.png'] }],
  },
  density: [
    {
      ...{ encoder: 'text_encoder', bandwidth: 0.5, words: 10, vocabulary: { low: -2, median: -1, high: 0 } },
      embeddings: [{ concept: 'a', word: '<a>', logDensity: [-1, -2] }],
    },
  ],
  attention: {
    ...{ prompt: 'a <a>', seed: 0, picture: 'pictures/x/0.png' },
    maps: [
      { word: '<a>', height: 8, width: 8, layers: 3, largest: 0.5, mean: 0.1, file: 'pictures/x/1.png' },
    ],
  },
};

const report: Target = {
  name: 'report',
  batch: 300,
  words: ['variants', 'samples', 'mean', 'low', 'high', 'styleMix', 'density', 'attention', 'references'],
  seeds: async () => [
    [seedFile('report.json', 'json', JSON.stringify(REPORT))],
    [
      seedFile(
        'report.json',
        'json',
        JSON.stringify({ ...REPORT, styleMix: null, density: null, attention: null }),
      ),
    ],
  ],
  run: async ({ file, folder, random }) => {
    const read = await readEvaluationReport(file);
    if (random.chance(0.05)) {
      await attempt(() => evaluationPage(read, folder));
      await attempt(() => comparePage(['a', 'b'].map((label) => ({ label, report: read, folder }))));
    }
  },
};

const SCENE_WORDS = [
  ...[
    'prompt',
    'negative',
    'regions',
    'box',
    'polygon',
    'mask',
    'feather',
    'weight',
    'styleMix',
    'isolate',
    'width',
    'height',
  ],
  ...[
    'steps',
    'guidance',
    'sampler',
    'schedule',
    'prediction',
    'eta',
    'clipSkip',
    'seed',
    'count',
    'batch',
    'init',
    'guides',
  ],
  ...[
    'controls',
    'promptRewrite',
    'concepts',
    'loras',
    'embeddings',
    'base',
    'fused',
    'strength',
    'karras',
    'euler-a',
    'coarse',
  ],
];
const SCENE = {
  ...{
    prompt: 'photo of a <smiley1> (red:1.2)',
    negative: 'blurry',
    width: 64,
    height: 64,
    steps: 4,
    guidance: 4,
    seed: 3,
  },
  ...{
    sampler: 'euler-a',
    schedule: 'karras+trailing',
    eta: 0.5,
    isolate: 0.3,
    count: 2,
    batch: 1,
    clipSkip: 1,
  },
  regions: [
    { prompt: 'a <smiley1>', box: [0, 0, 0.5, 1], feather: 2, weight: 1.5, negative: 'x' },
    {
      prompt: 'b',
      polygon: [
        [0, 0],
        [32, 0],
        [32, 64],
      ],
    },
    { prompt: 'c', mask: 'mask.png' },
    'photo of a cat @ 0.5,0,1,1 : dog',
  ],
  styleMix: { coarse: 'a cat', '0-2': 'b' },
  init: { image: 'mask.png', denoise: 0.6 },
};
const SCENE_YAML = `base: model
concepts:
  - edlora_smiley.pth
  - { path: b.pth, strength: 0.8 }
prompt: |
  photo of a (cat:1.3)
  in the snow
regions:
  - prompt: a dog
    box: [0, 0, 32, 64]
    feather: 4
  - "a cat @ 32,0 64,0 64,64 feather=3 weight=2 : blurry"
promptRewrite: "[a]-*-[b]-*-[0, 0, 32, 32]|[c]-*-[]-*-[]"
steps: 5 # few
width: 64
height: 64
sampler: ddim
`;

let sceneModel: Promise<SceneModel> | undefined;

/** Larger pictures are the time of drawing them, not of reading the scene. */
const LARGEST_SIDE = 2048;

const scene: Target = {
  name: 'scene',
  batch: 200,
  words: SCENE_WORDS,
  seeds: async () => {
    const mask = seedFile('mask.png', 'fixed', PNG);
    return [
      [seedFile('scene.json', 'json', JSON.stringify(SCENE)), mask],
      [seedFile('scene.yaml', 'yaml', SCENE_YAML), mask],
      [seedFile('scene.yaml', 'yaml', JSON.stringify(SCENE, null, 1)), mask],
    ];
  },
  run: async ({ file, folder, random }) => {
    const given = await readSceneFile(file);
    const normal = normalScene(given, (own) => path.resolve(folder, own));
    if (random.chance(0.02)) await attempt(() => openSceneModel(normal));
    if ((normal.width ?? 0) > LARGEST_SIDE || (normal.height ?? 0) > LARGEST_SIDE) return;
    sceneModel ??= openSceneModel({
      concepts: [{ path: fixturePath(SMILEY), unetStrength: 1, textEncoderStrength: 1 }],
      loras: [],
    });
    await prepareScene(normal, await sceneModel);
  },
};

const FUSION = JSON.stringify({ base: { path: 'model' }, concepts: [{ name: '<a>', words: ['<a>'] }] });
const CONCEPT_CONFIG = JSON.stringify({
  '<a>': {
    concept_token_ids: Array.from({ length: 16 }, (_, i) => 826 + i),
    concept_token_names: Array.from({ length: 16 }, (_, i) => `<new${i}>`),
  },
});

/** Folders that `fuse` wrote: a fusion, or a whole checkpoint. Slow: the base is opened each time. */
const fused: Target = {
  name: 'fused-folder',
  batch: 15,
  words: ['base', 'path', 'concepts', 'words', 'name', 'concept_token_ids', 'concept_token_names', '<new0>'],
  seeds: async (): Promise<Seed[]> => {
    const layer = 'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k';
    return [
      [
        seedFile('recipe.json', 'json', FUSION),
        safetensors('lora.safetensors', [
          plain(`${layer}.lora_A.weight`, 2, 64),
          plain(`${layer}.lora_B.weight`, 32, 2),
        ]),
        safetensors('embeddings.safetensors', [plain('<a>', 16, 64)]),
      ],
      [
        seedFile('new_concept_cfg.json', 'json', CONCEPT_CONFIG),
        ...['unet', 'text_encoder'].map((part) =>
          seedFile(`${part}/config.json`, 'fixed', fixture(`tiny-world/model/${part}/config.json`)),
        ),
        safetensors('unet/diffusion_pytorch_model.safetensors', [plain('conv_in.weight', 2, 2)]),
        safetensors('text_encoder/model.safetensors', [plain('text_model.final_layer_norm.weight', 2)]),
        ...['vocab.json', 'merges.txt'].map((name) =>
          seedFile(`tokenizer/${name}`, 'fixed', fixture(`tiny-world/model/tokenizer/${name}`)),
        ),
        seedFile(
          'tokenizer/added_tokens.json',
          'json',
          JSON.stringify(Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`<new${i}>`, 826 + i]))),
        ),
      ],
    ];
  },
  run: async ({ folder }) => {
    const { vocabulary } = await openSceneModel({ fused: folder, concepts: [], loras: [] });
    vocabulary.encode('photo of a <a>', { pad: true });
  },
};

const manifest: Target = {
  name: 'manifest',
  batch: 600,
  words: [
    'lora_path',
    'unet_alpha',
    'text_encoder_alpha',
    'concept_name',
    'concepts',
    'path',
    'strength',
    'name',
    'unetStrength',
  ],
  seeds: async () => {
    const files = [
      'edlora_smiley.pth',
      'edlora_bullseye.pth',
      'edlora_beachball.pth',
      'edlora_checker.pth',
    ].map((name) => seedFile(name, 'fixed', ''));
    const own = `concepts:\n  - edlora_smiley.pth\n  - { path: edlora_checker.pth, strength: 0.8 }\n  - path: edlora_bullseye.pth
    unetStrength: 0.5\n    textEncoderStrength: 1\n    name: <a> <b>\n`;
    const json = {
      concepts: ['edlora_smiley.pth', { path: 'edlora_checker.pth', strength: 0.5, name: '<a>' }],
    };
    return [
      [seedFile('concepts.json', 'json', fixture('tiny-world/concepts/concepts.json')), ...files],
      [seedFile('concepts.yaml', 'yaml', own), ...files],
      [seedFile('own.json', 'json', JSON.stringify(json)), ...files],
    ];
  },
  run: async ({ file }) => {
    await readManifest(file);
  },
};

const OWN_SETTINGS = `base: model
data: pictures
token: <a>+<b>
init: <rand-0.013>+cat
steps: 20
lrUnet: 1e-4
rankPattern: {attn2: 8}
masks: masks
method: ed-lora
where: attention
resolution: 64
`;
const MIX_OF_SHOW = `name: EDLoRA_cat
num_gpu: 2
manual_seed: 7
gradient_accumulation_steps: 1
datasets:
  train:
    concept_list: list.json
    instance_transform:
      - { type: HumanResizeCropFinalV3, size: 64, crop_p: 0.5 }
      - { type: ShuffleCaption, keep_token_num: 1 }
      - { type: EnhanceText, enhance_type: human }
    replace_mapping:
      <TOK>: <cat1> <cat2>
    batch_size_per_gpu: 1
    dataset_enlarge_ratio: 100
models:
  pretrained_path: model
  enable_edlora: true
  finetune_cfg:
    text_embedding: { enable_tuning: true, lr: !!float 1e-3 }
    unet:
      enable_tuning: true
      lora_cfg: { rank: 4, alpha: 1.0, where: Transformer2DModel }
      lr: !!float 1e-4
  new_concept_token: <cat1>+<cat2>
  initializer_token: <rand-0.013>+cat
  attn_reg_weight: 0.02
  use_mask_loss: true
train:
  optim_g: { type: AdamW, weight_decay: 0.02 }
  unet_kv_drop_rate: 0.2
  scheduler: linear
  kde_opt: { type: x, loss_weight: 0.1, bandwidth: 0.5 }
`;
const LIST = JSON.stringify([
  { instance_prompt: '<TOK>', instance_data_dir: 'pictures', caption_dir: 'caption', mask_dir: 'mask' },
]);

const training: Target = {
  name: 'training-settings',
  batch: 400,
  words: [
    ...[
      'data',
      'token',
      'init',
      'method',
      'textual-inversion',
      'custom-diffusion',
      'rank',
      'alphaPattern',
      'vectors',
      'base',
    ],
    ...[
      'datasets',
      'models',
      'network_g',
      'train',
      'finetune_cfg',
      'concept_list',
      'instance_data_dir',
      'lora_cfg',
      'factors',
    ],
  ],
  seeds: async (): Promise<Seed[]> => {
    const list = seedFile('list.json', 'json', LIST);
    const settings = JSON.stringify({
      data: 'p',
      token: '<a>',
      rankPattern: { a: 1 },
      captions: 'auto',
      factors: 'loha',
    });
    return [
      [seedFile('own.yaml', 'yaml', OWN_SETTINGS)],
      [seedFile('theirs.yml', 'yaml', MIX_OF_SHOW), list, seedFile('pictures/1.png', 'fixed', '')],
      [seedFile('own.json', 'json', settings)],
    ];
  },
  run: async ({ file }) => {
    const { settings } = await readTrainingFile(file);
    trainingSettings({ data: 'pictures', ...settings } as TrainingInput);
  },
};

export const documentTargets: readonly Target[] = [recipe, report, scene, fused, manifest, training];
