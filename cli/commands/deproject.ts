/** `edlora deproject`: one embedding, or a mean of several, back to what a picture is drawn from. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import { DEPROJECTOR_MODEL_NAMES } from '../../src/index.ts';
import type { Command, CommandContext } from '../command.ts';
import { applyDeprojector } from '../deprojector/apply.ts';
import { trainDeprojectorFrom } from '../deprojector/train.ts';
import { baseOptionsIn, option, outputOptions, text } from '../options.ts';

const WITH = 'Models:';
const PROMPTS = 'train: prompts to learn from:';
const HOW = 'train: how:';
const WHAT = 'apply: what to embed:';
const RESULTS = 'Results:';
const many = { array: true };
const flag = (describe: string): Options => ({ type: 'boolean', default: false, group: RESULTS, describe });

const options = {
  ...baseOptionsIn(WITH),
  clip: option(
    WITH,
    'Folder of the whole CLIP model that the base’s text encoder is of [default: clip/ in the base]',
  ),
  prompts: option(PROMPTS, 'Text file, one a line'),
  'prompts-from-captions': option(PROMPTS, 'Folder with captions (.txt)'),
  template: option(PROMPTS, 'All combinations of a text’s {names}: "photo of a {colour} {shape}"', many),
  words: option(PROMPTS, 'Words of a name of --template: colour=red,green,blue or shape=shapes.txt', many),
  model: option(HOW, `One of ${DEPROJECTOR_MODEL_NAMES.join(', ')}`, { choices: DEPROJECTOR_MODEL_NAMES }),
  vicinity: option(HOW, 'States before a position that vicinity models see [default: 3]'),
  epochs: option(HOW, 'Times that every prompt is seen [default: 8]'),
  batch: option(HOW, 'Prompts of a step [default: 64]'),
  lr: option(HOW, 'Learning rate [default: 0.001]'),
  warmup: option(HOW, 'Steps over which the rate first rises [default: 50]'),
  noise: option(HOW, 'Spread of what is added to the true states before a position [default: 0]'),
  blur: option(HOW, 'Spread of what is added to embeddings, so that means are read too [default: 0]'),
  rollout: option(
    HOW,
    'Share of prompts where it reads its own states alone, as in use; elsewhere its own from some position on [default: 0]',
  ),
  'held-out': option(HOW, 'Share of prompts that the result is measured on [default: 0.1]'),
  seed: option(HOW, 'Seed of split, order and noise [default: 0]'),
  'save-every': option(HOW, 'Steps between two saved states [default: 100]'),
  cache: option(HOW, 'Where states of the prompts are kept, for several trainings [default: beside --out]'),
  text: option(WHAT, 'A text; "a cat:0.7" weighs it', many),
  image: option(WHAT, 'A picture; photo.png:0.5 weighs it', many),
  out: option(
    RESULTS,
    'File for the deprojector, or for the states [default: deprojector.safetensors, states.safetensors]',
  ),
  resume: flag('train: go on from the state beside --out'),
  force: flag('Replace an earlier --out'),
  'dry-run': flag('Check everything and print the plan only'),
  json: { ...outputOptions.json, group: RESULTS },
  quiet: { ...outputOptions.quiet, group: RESULTS },
} as const satisfies Record<string, Options>;

const LIST = 'fixtures/tiny-world/model/deprojector_prompts.txt';

export const deprojectCommand: Command = {
  usage: 'deproject <action> [file]',
  description: 'Train what draws from one CLIP embedding, or a mean of several; or apply it',
  options,
  positionals: {
    action: { type: 'string', choices: ['train', 'apply'], describe: 'What to do' },
    file: { type: 'string', describe: 'apply: the deprojector' },
  },
  examples: [
    [
      `edlora deproject train --prompts ${LIST} --model vicinity-individual --epochs 16 --lr 3e-3 --noise 0.1 --rollout 0.3 --blur 0.5 --out d.safetensors`,
      'On the miniature, two minutes of one core; with a blur it reads means',
    ],
    [
      'edlora deproject train --template "photo of a {colour} {shape}" --words colour=red,green,blue shape=circle,star --model transformer --out d.safetensors',
      'From combinations of words',
    ],
    [
      'edlora deproject apply d.safetensors --text "photo of a red object" --text "photo of a star:1.5" --out states.safetensors',
      'States of a mean',
    ],
    [
      'edlora sample --deprojector d.safetensors --embed "photo of a red object" --embed "photo of a star:1.5" --guidance 4',
      'The same as a picture, without a file between',
    ],
  ],
  keeps: (args) =>
    args.action === 'train' ? 'a training keeps its state beside --out: --resume goes on from it' : undefined,
  run: runDeproject,
};

async function runDeproject(args: Readonly<Record<string, unknown>>, context: CommandContext): Promise<void> {
  if (args.action === 'apply') return applyDeprojector(args, context);
  const file = text(args, 'file');
  if (file !== undefined)
    throw new UsageError(`deproject train: expected no file, got "${file}"; name the result with --out`);
  return trainDeprojectorFrom(args, context);
}
