/** A scene as the options of `edlora sample` say it, alone or in place of what a file says. */
import path from 'node:path';
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import {
  AUTO_ISOLATE,
  COMBINATION_NAMES,
  checkScene,
  DEFAULT_DENOISE,
  DEFAULT_SAMPLERS,
  type EmbeddedPart,
  type NormalScene,
  normalScene,
  REQUEST_DEFAULTS,
  readPictureScene,
  readSceneFile,
  SAMPLER_NAMES,
} from '../../src/index.ts';
import { defined } from '../../src/settings.ts';
import { visible } from '../../src/visible.ts';
import { embeddedParts } from '../deprojector/options.ts';
import { baseOptions, number, option, outputOptions, pairs, text, texts } from '../options.ts';

type Args = Readonly<Record<string, unknown>>;

const { steps, guidanceScale, seed, count } = REQUEST_DEFAULTS;

const MODEL = 'What to draw with:';
const SCENE = 'What to draw:';
const HOW = 'How:';
const EMBED = 'In place of prompts:';
const GUIDES = 'Guided by pictures:';
const RESULTS = 'Results:';
const many = { array: true };
const flag: Options = { type: 'boolean', requiresArg: false, default: false };

export const sampleOptions = {
  fused: option(MODEL, 'Folder of a fusion, or a fused checkpoint as Mix-of-Show writes it'),
  base: {
    ...baseOptions.base,
    group: MODEL,
    describe: 'Base model [default: the fusion’s, or the miniature]',
  },
  'base-config': { ...baseOptions['base-config'], group: MODEL },
  prediction: { ...baseOptions.prediction, group: MODEL },
  concepts: option(MODEL, 'Concept files; "file:0.8" sets the strength', many),
  loras: option(MODEL, 'LoRA files; "file:0.7" sets the strength', many),
  embeddings: option(MODEL, 'Textual inversion files', many),
  prompt: option(SCENE, 'What the picture shows; (word:1.2) weighs words', { requiresArg: false }),
  negative: option(SCENE, 'What it does not show', { requiresArg: false }),
  'prompt-2': option(SCENE, 'SDXL: what the second text encoder reads in place of the prompt'),
  'negative-2': option(SCENE, 'SDXL: the same in place of the negative prompt'),
  region: option(
    SCENE,
    '"prompt @ left,top,right,bottom : negative"; also a polygon, or a mask picture; <lora:file:0.8> in it acts there',
    many,
  ),
  'concepts-everywhere': {
    ...flag,
    group: SCENE,
    describe: 'Concepts act in the whole picture, not only in the regions that name them',
  },
  'auto-regions': {
    ...flag,
    group: SCENE,
    describe: 'Each concept of the prompt finds its place, and acts there alone; no region is drawn',
  },
  restart: {
    ...flag,
    default: undefined,
    group: SCENE,
    describe: 'Begin anew once places are found [default: yes]; --no-restart goes on',
  },
  'save-masks': option(
    RESULTS,
    'Folder for the places that --auto-regions found: masks, and a scene that draws in them',
  ),
  combine: option(
    SCENE,
    `How several files act in a prompt without regions: ${COMBINATION_NAMES.join(', ')} [default: sum]`,
  ),
  'prompt-rewrite': option(SCENE, 'Regions as Mix-of-Show writes them'),
  'style-mix': option(SCENE, '"layers=prompt": coarse, middle, fine, 3 or 0-5', many),
  scene: option(SCENE, 'Scene file, YAML or JSON; options go before it'),
  from: option(SCENE, 'Draw the picture of this file again; options go before it'),
  width: option(SCENE, 'Pixels [default: what the model was trained at]'),
  height: option(SCENE, 'Pixels [default: what the model was trained at]'),
  'original-size': option(SCENE, 'SDXL: width and height that the picture claims to come from, 1024x1024'),
  crop: option(SCENE, 'SDXL: left and top of the cut that it claims to be, 0,0'),
  init: option(SCENE, 'Picture to start from'),
  denoise: option(SCENE, `How far it goes back to noise, 0 … 1 [default: ${DEFAULT_DENOISE}]`),
  deprojector: option(EMBED, 'Deprojector, a file of `edlora deproject train`'),
  embed: option(
    EMBED,
    'Text whose CLIP embedding is drawn; "maid:0.7" weighs it in the mean of several',
    many,
  ),
  'embed-image': option(EMBED, 'Picture in that mean; photo.png:0.5 weighs it', many),
  'negative-embed': option(EMBED, 'Text in place of the negative prompt', many),
  'negative-embed-image': option(EMBED, 'Picture in place of the negative prompt', many),
  clip: option(EMBED, 'Folder of the CLIP model that embeds pictures [default: clip/ in the base]'),
  states: option(EMBED, 'States of the text encoder, a file of `edlora deproject apply`'),
  'negative-states': option(EMBED, 'States in place of the negative prompt'),
  steps: option(HOW, `Steps [default: ${steps}]`),
  guidance: option(HOW, `Guidance scale; 1 is none [default: ${guidanceScale}]`),
  'guidance-rescale': option(HOW, 'Against overexposure at high guidance, 0 … 1 [default: 0]'),
  sampler: option(HOW, `One of ${SAMPLER_NAMES.join(', ')} [default: ${DEFAULT_SAMPLERS}]`),
  schedule: option(
    HOW,
    'model, karras, leading, linspace, trailing; karras+trailing for both [default: model]',
  ),
  eta: option(HOW, 'ddim: share of fresh noise, 0 … 1 [default: 0]'),
  isolate: option(
    HOW,
    `Share of the steps in which regions keep to themselves, 0 … 1 [default: 0, found ones ${AUTO_ISOLATE}]`,
  ),
  'clip-skip': option(HOW, 'Layers of the text encoder to leave out [default: 0]'),
  seed: option(HOW, `Seed of the first picture; each further one takes the next [default: ${seed}]`),
  count: option(HOW, `Pictures [default: ${count}]`),
  batch: option(HOW, 'Pictures in one pass [default: 1]'),
  keypose: option(GUIDES, 'Pose picture'),
  'keypose-adapter': option(GUIDES, 'Folder of the T2I-Adapter for it'),
  'keypose-strength': option(GUIDES, '[default: 1]'),
  'keypose-regions': option(GUIDES, 'Strengths by place: "[y0, x0, y1, x1]-0.8|…"'),
  sketch: option(GUIDES, 'Sketch picture'),
  'sketch-adapter': option(GUIDES, 'Folder of the T2I-Adapter for it'),
  'sketch-strength': option(GUIDES, '[default: 1]'),
  'sketch-regions': option(GUIDES, 'Strengths by place, as above'),
  control: option(GUIDES, 'Folder of a ControlNet'),
  'control-image': option(GUIDES, 'Picture for it'),
  'control-strength': option(GUIDES, '[default: 1]'),
  out: option(RESULTS, 'Folder; pictures are numbered on', { default: 'out' }),
  grid: { ...flag, group: RESULTS, describe: 'Also write one sheet with all pictures' },
  preview: option(RESULTS, 'Write preview.png every so many steps'),
  metadata: {
    ...flag,
    default: true,
    group: RESULTS,
    describe: 'Store the recipe in pictures; --no-metadata does not',
  },
  'dry-run': { ...flag, group: RESULTS, describe: 'Check everything and print the scene only' },
  json: { ...outputOptions.json, group: RESULTS },
  quiet: { ...outputOptions.quiet, group: RESULTS },
} as const satisfies Record<string, Options>;

/** The scene of `--scene` or `--from`, with the options in place of what it says. */
export async function readScene(args: Args): Promise<NormalScene> {
  const [file, picture] = [text(args, 'scene'), text(args, 'from')];
  if (file !== undefined && picture !== undefined)
    throw new UsageError('--scene and --from: expected one of them');
  const given = givenScene(args);
  const own = normalScene(
    checkScene(given, ([key]) => `--${optionOf(String(key))}`),
    (name) => path.resolve(name),
  );
  let stored: NormalScene | null = null;
  if (file !== undefined) {
    const folder = path.dirname(path.resolve(file));
    stored = normalScene(await readSceneFile(file), (name) => path.resolve(folder, name));
  }
  if (picture !== undefined)
    stored = normalScene(await readPictureScene(picture), (name) => path.resolve(name));
  if (stored === null) return own;
  const overridden = Object.entries(own).filter(
    ([key]) => key in given || (key === 'promptLoras' && 'prompt' in given),
  );
  return { ...stored, ...Object.fromEntries(overridden) };
}

/** The option behind a field of the scene, for messages. */
function optionOf(field: string): string {
  const names: Readonly<Record<string, string>> = {
    regions: 'region',
    prompt2: 'prompt-2',
    negative2: 'negative-2',
  };
  return names[field] ?? field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** What the options say, in the form of a scene file. */
function givenScene(args: Args): Record<string, unknown> {
  const scene: Record<string, unknown> = {};
  const put = (field: string, value: unknown): void => {
    if (value !== undefined) scene[field] = value;
  };
  const figure = (name: string): number | undefined =>
    args[name] === undefined ? undefined : number(`--${name}`, text(args, name)!);
  const list = (name: string): string[] | undefined =>
    args[name] === undefined ? undefined : texts(args, name);
  for (const field of [
    'fused',
    'base',
    'prompt',
    'negative',
    'combine',
    'sampler',
    'schedule',
    'prediction',
  ]) {
    put(field, text(args, field));
  }
  for (const field of ['deprojector', 'clip', 'states']) put(field, text(args, field));
  put('negativeStates', text(args, 'negative-states'));
  put('embed', partsOf(args, 'embed'));
  put('negativeEmbed', partsOf(args, 'negative-embed'));
  put('prompt2', text(args, 'prompt-2'));
  put('negative2', text(args, 'negative-2'));
  put('baseConfig', text(args, 'base-config'));
  put('promptRewrite', text(args, 'prompt-rewrite'));
  for (const field of ['width', 'height', 'steps', 'guidance', 'eta', 'isolate', 'seed', 'count', 'batch']) {
    put(field, figure(field));
  }
  put('originalSize', numbersOf(args, 'original-size', '1024x1024'));
  put('crop', numbersOf(args, 'crop', '0,0'));
  put('guidanceRescale', figure('guidance-rescale'));
  put('clipSkip', figure('clip-skip'));
  put('concepts', list('concepts')?.map(withStrength));
  put('loras', list('loras')?.map(withStrength));
  put('embeddings', list('embeddings'));
  put('regions', list('region'));
  if (args['auto-regions'] === true)
    put('autoRegions', defined({ restart: args.restart as boolean | undefined }));
  else if (args.restart !== undefined) throw new UsageError('--restart: expected --auto-regions');
  if (args['concepts-everywhere'] === true) put('conceptsEverywhere', true);
  const mix = list('style-mix');
  if (mix !== undefined) put('styleMix', Object.fromEntries(pairs('style-mix', mix)));
  const init = text(args, 'init');
  if (init !== undefined) put('init', { image: init, ...defined({ denoise: figure('denoise') }) });
  else if (args.denoise !== undefined) throw new UsageError('--denoise: expected --init with a picture');
  const guides = (['keypose', 'sketch'] as const).flatMap((kind) => guide(args, kind, figure));
  if (guides.length > 0) put('guides', guides);
  const model = text(args, 'control');
  const image = text(args, 'control-image');
  if ((model === undefined) !== (image === undefined)) {
    throw new UsageError('--control and --control-image: expected both of them');
  }
  if (model !== undefined)
    put('controls', [{ model, image, ...defined({ strength: figure('control-strength') }) }]);
  return scene;
}

/** Two numbers in one option. @param form e.g. `1024x1024` */
function numbersOf(args: Args, name: string, form: string): number[] | undefined {
  const given = text(args, name);
  if (given === undefined) return undefined;
  const parts = given.split(form.replace(/\d/g, ''));
  if (parts.length !== 2)
    throw new UsageError(`--${name}: expected two numbers, as ${form}, got "${visible(given)}"`);
  return parts.map((part) => number(`--${name}`, part));
}

/** Texts and pictures of `--embed` and `--embed-image`, if there are any. */
function partsOf(args: Args, name: string): EmbeddedPart[] | undefined {
  const parts = embeddedParts(args, { text: name, image: `${name}-image` });
  return parts.length === 0 ? undefined : parts;
}

/** `file:0.7` → file and strength; a colon that no number follows belongs to the name. */
function withStrength(value: string): string | { path: string; strength: number } {
  const match = /^(.+):([+-]?(?:\d+(?:\.\d*)?|\.\d+))$/.exec(value);
  return match === null ? value : { path: match[1]!, strength: Number(match[2]) };
}

function guide(
  args: Args,
  kind: 'keypose' | 'sketch',
  figure: (name: string) => number | undefined,
): Record<string, unknown>[] {
  const image = text(args, kind);
  const adapter = text(args, `${kind}-adapter`);
  const strength = figure(`${kind}-strength`);
  const regions = text(args, `${kind}-regions`);
  if (image === undefined) {
    if (adapter === undefined && strength === undefined && regions === undefined) return [];
    throw new UsageError(`--${kind}-…: expected --${kind} with a picture`);
  }
  if (adapter === undefined) {
    const known = {
      keypose: ['t2iadapter_openpose_sd14v1', 't2i-adapter-openpose-sdxl-1.0'],
      sketch: ['t2iadapter_sketch_sd14v1', 't2i-adapter-sketch-sdxl-1.0'],
    }[kind];
    throw new UsageError(
      `--${kind}: expected --${kind}-adapter with the folder of a T2I-Adapter, e.g. a download of TencentARC/${known[0]}, for SDXL ${known[1]}`,
    );
  }
  return [{ adapter, image, ...defined({ strength, regions }) }];
}
