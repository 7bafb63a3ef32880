/** Texts for people: prompts, regions, lists of prompts, captions of training pictures. */
import { loadPrompts, withoutConcept, withWords } from '../../../src/evaluation/prompt-sets.ts';
import { readCaptions, withEmptyPrompt } from '../../../src/fusion/captions.ts';
import { parseBlockWeights } from '../../../src/merging/block-weights.ts';
import { parseStyleMix } from '../../../src/sampling/layer-groups.ts';
import { openSceneModel, type SceneModel } from '../../../src/sampling/model-source.ts';
import { parsePromptWeights } from '../../../src/sampling/prompt-weights.ts';
import {
  parseMixOfShowRegions,
  parseMixOfShowStrengths,
  parseRegion,
} from '../../../src/sampling/region-text.ts';
import { unknownWords } from '../../../src/sampling/request.ts';
import { TorchGenerator } from '../../../src/tensor/random.ts';
import { drawCaption } from '../../../src/training/data/captions.ts';
import { readTrainingFolder } from '../../../src/training/data/training-folder.ts';
import { attempt, Finding, type Seed, type Target } from '../target.ts';
import { miniature } from './adapters.ts';
import { PNG } from './pictures.ts';
import { fixture, fixturePath, seedFile } from './seeds.ts';

let model: Promise<SceneModel> | undefined;

const texts = (...list: readonly string[]): Seed[] => list.map((text) => [seedFile('text', 'text', text)]);

const prompt: Target = {
  name: 'prompt',
  batch: 1000,
  inMemory: true,
  words: ['<smiley1>', '<smiley2>', '<new0>', '(a:1.3)', ':1.1)', '\\(', '<smilley1>', 'bullseye'],
  seeds: async () =>
    texts(
      'photo of a <smiley1> <smiley2> and (a red:1.3) hat, ((very:0.5) good:1.2)',
      'a \\(plain\\) (prompt), with <unknown1> words',
      "it's 1984, isn't it? don't; they'll <|endoftext|> [x]",
    ),
  run: async ({ bytes }) => {
    const text = Buffer.from(bytes).toString('utf8');
    model ??= openSceneModel({
      concepts: [
        {
          path: fixturePath('tiny-world/concepts/edlora_smiley.pth'),
          unetStrength: 1,
          textEncoderStrength: 1,
        },
      ],
      loras: [],
    });
    const { vocabulary } = await model;
    const pieces = parsePromptWeights(text);
    if (pieces.some(({ weight }) => !Number.isFinite(weight)))
      throw new Finding('a weight that is no number');
    // Long texts take their time in each of 16 layers: one is enough.
    if (text.length < 500) vocabulary.encode(text, { pad: true });
    else vocabulary.tokenizer.encode(text);
    unknownWords([text], vocabulary);
    withWords(withoutConcept(text), 'x');
  },
};

const region: Target = {
  name: 'region',
  batch: 3000,
  inMemory: true,
  words: ['feather=', 'weight=', '-*-', '[0, 0, 32, 32]', '@', ' : ', '0.5,0,1,1', 'coarse', '0-5'],
  seeds: async () =>
    texts(
      'a cat @ 0,0,0.5,1 feather=8 weight=2 : a dog',
      'a cat @ 0,0 32,0 32,64 : x',
      'a cat @ mask.png weight=1e1',
      '[a cat]-*-[dog]-*-[0, 0, 32, 32]|[b]-*-[]-*-[]',
      '[0, 0, 32, 32]-0.8|[]-1.5',
      'IN01=0.5,MID=1,OUT03=0,BASE=1',
      '1,0,0,0,1,1,1,1,0.5,1,1,1,1,1,1,1,1',
      '0-5',
    ),
  run: async ({ bytes }) => {
    const text = Buffer.from(bytes).toString('utf8');
    const { unet } = (await miniature()).parts;
    await attempt(() => parseRegion(text));
    await attempt(() => parseMixOfShowRegions(text, 64, 64));
    await attempt(() => parseMixOfShowStrengths(text, 64, 64));
    await attempt(() => parseBlockWeights(text, 'sd1'));
    await attempt(() => parseStyleMix({ [text]: 'a' }, unet.config));
  },
};

const promptList: Target = {
  name: 'prompt-list',
  batch: 1000,
  words: ['<TOK>', '# comment', 'photo of a <TOK>'],
  seeds: async () => [
    [seedFile('prompts.txt', 'text', fixture('tiny-world/model/evaluation_prompts.txt'))],
    [seedFile('captions.txt', 'text', fixture('tiny-world/model/preservation_captions.txt'))],
  ],
  run: async ({ file }) => {
    withEmptyPrompt((await attempt(() => readCaptions(file))) ?? []);
    for (const line of await loadPrompts(file)) withoutConcept(line);
  },
};

const CAPTION_OPTIONS = {
  templates: 'object',
  shuffleCaptions: true,
  keepParts: 1,
  captionDropout: 0.1,
} as const;

const captions: Target = {
  name: 'captions',
  batch: 150,
  words: ['file_name', 'text', 'caption', 'prompt', '01.png', '<TOK>', '../01.png'],
  seeds: async (): Promise<Seed[]> => {
    const picture = seedFile('01.png', 'fixed', PNG);
    return [
      [seedFile('01.txt', 'text', 'a <TOK>, red, on a table\nmore'), picture],
      [seedFile('captions.json', 'json', '{"01.png": "a <TOK>", "02.png": "b"}'), picture],
      [seedFile('01.json', 'json', '{"caption": "a <TOK>", "tags": ["x"]}'), picture],
      [
        seedFile(
          'metadata.jsonl',
          'text',
          '{"file_name": "01.png", "text": "a <TOK>"}\n{"file_name": "x/02.png", "text": "b"}\n',
        ),
        picture,
      ],
      [
        seedFile('list.json', 'json', '[{"file_name": "01.png", "text": "a"}]'),
        picture,
        seedFile('01_mask.png', 'png', PNG),
      ],
    ];
  },
  run: async ({ folder, random }) => {
    const pictures = await readTrainingFolder(folder, {
      captions: 'auto',
      prompt: random.pick(['', 'a']),
      captionFolder: '',
      masks: 'auto',
    });
    const generator = new TorchGenerator(1n);
    for (const { caption } of pictures) drawCaption(caption, CAPTION_OPTIONS, generator);
  },
};

export const textTargets: readonly Target[] = [prompt, region, promptList, captions];
