/** `edlora eval`: numbers and pictures that say whether a concept survived. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import {
  type Concept,
  checkEvaluation,
  clipBeside,
  compareEvaluations,
  DEFAULT_SAMPLERS,
  defaultPrompts,
  type EvaluationModels,
  type EvaluationReport,
  type Interval,
  loadPrompts,
  loadWords,
  type MixedPrompt,
  openClipModel,
  openEvaluationModels,
  PROMPT_SETS,
  REQUEST_DEFAULTS,
  ReportFolder,
  readPictureFolder,
  runEvaluation,
} from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import type { Command, CommandContext } from '../command.ts';
import {
  baseOptionsIn,
  number,
  numbers,
  option,
  outputOptions,
  readBaseOptions,
  text,
  texts,
} from '../options.ts';
import type { Io } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { duration, nearPath, table } from '../terminal/table.ts';

type Args = Readonly<Record<string, unknown>>;

/** What the sampler does without being told. */
const { steps, guidanceScale } = REQUEST_DEFAULTS;

const JUDGED = 'What to judge:';
const AGAINST = 'Against what:';
const MODELS = 'Models:';
const PICTURES = 'Pictures:';
const INSIDE = 'Looking inside:';
const RESULTS = 'Results:';
const many = { array: true };
const flag: Options = { type: 'boolean', requiresArg: false, default: false };

const options = {
  concept: option(JUDGED, 'Concept file: ED-LoRA, or LoRA with --name'),
  reference: option(JUDGED, 'Folder of pictures of the concept'),
  name: option(JUDGED, 'What prompts call the concept [default: its own words]'),
  class: option(JUDGED, 'What the base calls such a thing (circle, dog): the base is then drawn as well'),
  fused: option(AGAINST, 'Folders of fusions or fused checkpoints; "name=folder" names one', many),
  with: option(AGAINST, 'Further concept files, for --sum', many),
  sum: option(AGAINST, 'Strengths at which this concept and those of --with are added', many),
  ...baseOptionsIn(MODELS),
  clip: option(MODELS, 'Folder of a whole CLIP model, text and vision [default: clip/ in the base]'),
  prompts: option(
    PICTURES,
    `Prompt set (${Object.keys(PROMPT_SETS).join(', ')}) or text file with <TOK> in each line [default: the base’s own list, or object]`,
  ),
  count: option(PICTURES, 'Pictures per model; prompts take turns', { default: '50' }),
  seed: option(PICTURES, 'First seed', { default: '0' }),
  steps: option(PICTURES, 'Denoising steps', { default: String(steps) }),
  guidance: option(PICTURES, 'Guidance scale', { default: String(guidanceScale) }),
  sampler: option(PICTURES, `Sampler by name [default: ${DEFAULT_SAMPLERS}]`),
  negative: option(PICTURES, 'Negative prompt'),
  width: option(PICTURES, 'Pixels [default: the base’s]'),
  height: option(PICTURES, 'Pixels [default: the base’s]'),
  batch: option(PICTURES, 'Pictures of one prompt in one pass', { default: '4' }),
  'style-mix': option(INSIDE, 'Two prompts: a strip from the first to the second, layer by layer', many),
  density: option(INSIDE, 'Further files of learned words whose place among words is shown', many),
  attention: option(INSIDE, 'Attention maps of the concept’s words; --no-attention leaves them out', {
    ...flag,
    default: true,
  }),
  compare: option(RESULTS, 'Put report.json files side by side instead of drawing', many),
  out: option(RESULTS, 'Folder for report and pictures', { default: 'report' }),
  force: option(RESULTS, 'Replace results of an earlier run in --out', flag),
  'dry-run': option(RESULTS, 'Check everything and print the plan only', flag),
  json: { ...outputOptions.json, group: RESULTS },
  quiet: { ...outputOptions.quiet, group: RESULTS },
} as const satisfies Record<string, Options>;

const WORLD = 'fixtures/tiny-world';
const SMILEY = `--concept ${WORLD}/concepts/edlora_smiley.pth --reference ${WORLD}/concepts/smiley`;

export const evalCommand: Command = {
  usage: 'eval',
  description: 'Draw the same prompts by several models and score how well a concept survived',
  options,
  examples: [
    [`edlora eval ${SMILEY} --class circle --count 8 --guidance 4`, 'A concept against the base model'],
    [
      `edlora eval ${SMILEY} --with ${WORLD}/concepts/edlora_bullseye.pth --sum 0.5 1 --dry-run`,
      'What would be drawn: the concept, and two sums with another',
    ],
    [
      'edlora eval --base stable-diffusion-xl-base-1.0 --clip clip-vit-large-patch14 --concept style-sdxl.safetensors --name "pixel art" --reference photos',
      'SDXL: a plain LoRA by its trigger phrase',
    ],
  ],
  keeps: 'pictures drawn so far are kept in --out',
  run: (args, context) => (args.compare === undefined ? runEval(args, context) : runCompare(args, context)),
};

async function runEval(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const concept = text(args, 'concept');
  const reference = text(args, 'reference');
  if (concept === undefined || reference === undefined) {
    throw new UsageError('eval: expected --concept and --reference (or --compare with reports)');
  }
  const mix = texts(args, 'style-mix');
  if (mix.length !== 0 && mix.length !== 2) {
    throw new UsageError(`--style-mix: expected two prompts, got ${mix.length}`);
  }
  const figure = (name: string): number => number(`--${name}`, text(args, name)!);
  const side = (name: string): number | undefined => (args[name] === undefined ? undefined : figure(name));
  const samples = figure('count');
  const sampling = {
    steps: figure('steps'),
    guidanceScale: figure('guidance'),
    ...given('sampler', text(args, 'sampler')),
    ...given('negativePrompt', text(args, 'negative')),
    ...given('width', side('width')),
    ...given('height', side('height')),
  };
  const folder = new ReportFolder(text(args, 'out')!, {
    force: args.force === true || args['dry-run'] === true,
    inputs: [
      reference,
      concept,
      ...texts(args, 'with'),
      ...texts(args, 'density'),
      ...namedFolders(texts(args, 'fused')).values(),
      ...['base', 'clip', 'prompts'].flatMap((name) => text(args, name) ?? []),
    ],
  });
  const references = await readPictureFolder(reference);
  const className = text(args, 'class');
  const { configFolder: baseConfig, prediction } = readBaseOptions(args);
  const models = await openEvaluationModels({
    ...given('base', text(args, 'base')),
    baseConfig,
    prediction,
    ...given('words', text(args, 'name')),
    ...given('className', className),
    concept,
    fused: namedFolders(texts(args, 'fused')),
    addends: texts(args, 'with'),
    strengths: numbers(args, 'sum'),
  });
  const { base, variants } = models;
  const clip = await openClipModel(text(args, 'clip') ?? clipBeside(base.path));
  const list = text(args, 'prompts');
  const prompts = list === undefined ? await defaultPrompts(base) : await loadPrompts(list);
  const further: Concept[] = [];
  for (const file of texts(args, 'density')) further.push(await loadWords(file, base));
  if (args['dry-run'] === true) {
    const drawing = { sampling, samples, seed: figure('seed'), batchSize: figure('batch') };
    await checkEvaluation({ base, variants, references, prompts, ...drawing });
    io.out(
      args.json === true ? json(plan(models, prompts, samples)) : planText(models, prompts, samples, io),
    );
    return;
  }
  const [a, b] = mix.map((prompt) => described(prompt, variants[0]!.words, className));
  const line = new ProgressLine(io);
  const done = await runEvaluation({
    base,
    clip,
    variants,
    references,
    prompts,
    folder,
    samples,
    sampling,
    signal,
    threads,
    concept: models.name,
    seed: figure('seed'),
    batchSize: figure('batch'),
    styleMix: a === undefined || b === undefined ? null : { a, b },
    density: [models.concept, ...further],
    attentionPrompt: args.attention === true && models.concept.tokens.length > 0 ? prompts[0]! : null,
    onProgress: ({ variant, done, total }) => {
      if (args.quiet !== true) line.update({ activity: `drawing: ${variant}`, done, total }, variant);
    },
  }).finally(() => line.finish());
  io.out(args.json === true ? json(done) : resultText(done.report, done.files.html, io));
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** An option for a library that tells "left out" from undefined. */
function given<K extends string, V>(name: K, value: V | undefined): Partial<Record<K, V>> {
  return value === undefined ? {} : ({ [name]: value } as Record<K, V>);
}

/** `folder` or `name=folder`; one without a name is called `fused`. @throws {UsageError} for a name given twice */
function namedFolders(values: readonly string[]): Map<string, string> {
  const folders = new Map<string, string>();
  for (const value of values) {
    const at = value.indexOf('=');
    const [name, folder] = at < 1 ? ['fused', value] : [value.slice(0, at), value.slice(at + 1)];
    if (folders.has(name)) {
      throw new UsageError(`--fused: two folders are called "${name}"; name them: --fused a=${folder} b=…`);
    }
    folders.set(name, folder);
  }
  return folders;
}

/** CLIP does not know concept words: it is asked about the class instead, where one is given. */
function described(prompt: string, words: string, className: string | undefined): MixedPrompt {
  return className === undefined ? { prompt } : { prompt, described: prompt.split(words).join(className) };
}

function plan({ name, variants }: EvaluationModels, prompts: readonly string[], samples: number) {
  const models = variants.map(({ name, description, words }) => ({ name, description, words }));
  return { concept: name, models, prompts, samples, pictures: samples * variants.length };
}

function planText(models: EvaluationModels, prompts: readonly string[], samples: number, io: Io): string {
  const { concept, pictures, models: rows } = plan(models, prompts, samples);
  const body = table(
    rows,
    [
      { title: 'model', value: ({ name }) => name },
      { title: 'drawn as', value: ({ words }) => words },
      { title: 'made of', value: ({ description }) => description, flexible: true },
    ],
    io.columns,
  );
  return `${visible(concept)}: ${pictures} pictures, ${samples} by each model, of ${prompts.length} prompts\n\n${body}`;
}

const three = (value: number): string => value.toFixed(3);
const span = ({ low, high }: Interval): string => `${three(low)} … ${three(high)}`;

function resultText(report: EvaluationReport, page: string, io: Io): string {
  const { variants, scoring, elapsedMs, referenceAlignment } = report;
  const body = table(
    variants,
    [
      { title: 'model', value: ({ name }) => name, flexible: true },
      { title: 'image', value: ({ image }) => three(image.mean), align: 'right' },
      { title: '95 %', value: ({ image }) => span(image), align: 'right' },
      { title: 'text', value: ({ text }) => three(text.mean), align: 'right' },
      { title: '95 %', value: ({ text }) => span(text), align: 'right' },
    ],
    io.columns,
  );
  const rate = Math.round((1000 * scoring.pictures) / scoring.elapsedMs);
  const ceiling =
    referenceAlignment === null ? '' : `; references among themselves ${three(referenceAlignment)}`;
  return [
    body,
    `CLIP alignments${ceiling}.`,
    `${scoring.pictures} pictures scored at ${rate} a second; ${duration(elapsedMs)} in all.`,
    `Report: ${nearPath(page)}`,
    '',
  ].join('\n');
}

/** `--compare`: reports side by side, as a table and a page. */
async function runCompare(args: Args, { io }: CommandContext): Promise<void> {
  const folder = new ReportFolder(text(args, 'out')!, { force: args.force === true });
  const { page, models } = await compareEvaluations(texts(args, 'compare'), folder, nearPath);
  const rows = models.map(({ run, variant }) => ({ run, ...variant }));
  if (args.json === true) {
    io.out(json({ page, models: rows.map(({ samples: _, ...row }) => row) }));
    return;
  }
  const body = table(
    rows,
    [
      { title: 'run', value: ({ run }) => run, flexible: true },
      { title: 'model', value: ({ name }) => name },
      { title: 'image', value: ({ image }) => three(image.mean), align: 'right' },
      { title: 'text', value: ({ text }) => three(text.mean), align: 'right' },
    ],
    io.columns,
  );
  io.out(`${body}\nPage: ${nearPath(page)}\n`);
}
