/** `edlora deproject train`. */
import { UsageError } from '../../src/errors.ts';
import {
  type Checkpoint,
  captionsOf,
  checkDeprojectorTarget,
  clipBeside,
  combinations,
  type DeprojectorFiles,
  type DeprojectorInput,
  type DeprojectorModelName,
  type DeprojectorProgress,
  defaultBase,
  deprojectorFiles,
  deprojectorSettings,
  distinctPrompts,
  openCheckpoint,
  openClipModel,
  readPromptList,
  type TrainedDeprojector,
  trainDeprojector,
  wordsOf,
  writeTrainedDeprojector,
} from '../../src/index.ts';
import { defined } from '../../src/settings.ts';
import type { CommandContext } from '../command.ts';
import { number, pairs, readBaseOptions, text, texts } from '../options.ts';
import { type Io, paint, sayNote } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { nearPath } from '../terminal/table.ts';

type Args = Readonly<Record<string, unknown>>;

export async function trainDeprojectorFrom(
  args: Args,
  { io, signal, threads }: CommandContext,
): Promise<void> {
  const settings = settingsOf(args);
  const { prompts, inputs } = await promptsOf(args);
  const files = deprojectorFiles(text(args, 'out') ?? 'deprojector.safetensors', text(args, 'cache'));
  const basePath = text(args, 'base') ?? defaultBase();
  const base = await openCheckpoint(basePath, readBaseOptions(args));
  const clipPath = text(args, 'clip') ?? clipBeside(basePath);
  checkDeprojectorTarget(files, {
    inputs: [...inputs, basePath, clipPath, ...(text(args, 'base-config') ?? [])].flat(),
    force: args.force === true,
    resume: args.resume === true,
  });
  const clip = await openClipModel(clipPath);
  const distinct = distinctPrompts(prompts);
  const notes = promptNotes(prompts, distinct, base);
  if (args.quiet !== true) for (const note of notes) sayNote(io, note);
  if (args['dry-run'] === true) {
    const plan = { settings: deprojectorSettings(settings), prompts: distinct.length, files, notes };
    io.out(args.json === true ? json(plan) : planText(plan));
    return;
  }
  const line = new ProgressLine(io, { unequalGroups: true });
  const quiet = args.quiet === true || args.json === true;
  const show = progressOn(line);
  const trained = await trainDeprojector({
    base,
    clip,
    prompts: distinct,
    settings,
    statesFile: files.prompts,
    stateFile: files.state,
    resume: args.resume === true,
    threads,
    signal,
    onProgress: (progress) => {
      if (args.json === true && progress.step !== undefined) io.out(`${JSON.stringify(progress.step)}\n`);
      if (!quiet) show(progress);
    },
  }).finally(() => line.finish());
  await writeTrainedDeprojector(files, trained);
  const { counts, heldOut, parameterCount } = trained;
  if (args.json === true) io.out(`${JSON.stringify({ files, counts, heldOut, parameterCount, notes })}\n`);
  else io.out(resultText(trained, files, io));
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

function settingsOf(args: Args): DeprojectorInput {
  const model = text(args, 'model');
  if (model === undefined) throw new UsageError('deproject train: expected --model');
  const figure = (name: string): number | undefined =>
    args[name] === undefined ? undefined : number(`--${name}`, text(args, name)!);
  const settings = {
    model: model as DeprojectorModelName,
    ...defined({
      vicinity: figure('vicinity'),
      epochs: figure('epochs'),
      batch: figure('batch'),
      lr: figure('lr'),
      warmup: figure('warmup'),
      noise: figure('noise'),
      blur: figure('blur'),
      rollout: figure('rollout'),
      heldOut: figure('held-out'),
      seed: figure('seed'),
      saveEvery: figure('save-every'),
    }),
  };
  deprojectorSettings(settings);
  return settings;
}

/** All prompts that the options name, and the files that they stand in. */
async function promptsOf(args: Args): Promise<{ prompts: string[]; inputs: string[] }> {
  const [list, folder, templates] = [
    text(args, 'prompts'),
    text(args, 'prompts-from-captions'),
    texts(args, 'template'),
  ];
  const prompts: string[] = [];
  if (list !== undefined) prompts.push(...(await readPromptList(list)));
  if (folder !== undefined) prompts.push(...(await captionsOf(folder)));
  const given = pairs('words', texts(args, 'words'));
  if (given.length > 0 && templates.length === 0)
    throw new UsageError('--words: expected --template with their names');
  const lists = new Map<string, string[]>();
  for (const [name, words] of given) lists.set(name, await wordsOf(words));
  for (const name of lists.keys()) {
    if (!templates.some((template) => template.includes(`{${name}}`)))
      throw new UsageError(`--words ${name}: no --template has {${name}}`);
  }
  for (const template of templates) {
    prompts.push(
      ...combinations(template, new Map([...lists].filter(([name]) => template.includes(`{${name}}`)))),
    );
  }
  if (list === undefined && folder === undefined && templates.length === 0) {
    throw new UsageError('deproject train: expected --prompts, --prompts-from-captions or --template');
  }
  return {
    prompts,
    inputs: [list, folder, ...given.map(([, words]) => words)].filter((name) => name !== undefined),
  };
}

function promptNotes(prompts: readonly string[], distinct: readonly string[], base: Checkpoint): string[] {
  const notes: string[] = [];
  const { maxPositions } = base.parts;
  const cut = distinct.filter((prompt) => base.tokenizer.encode(prompt).length > maxPositions).length;
  if (distinct.length < prompts.length)
    notes.push(`${prompts.length - distinct.length} prompts are there twice; they count once`);
  if (cut > 0)
    notes.push(
      `${cut} of ${distinct.length} prompts are longer than ${maxPositions} tokens, and are cut there`,
    );
  return notes;
}

/** Weight of the losses so far in the one that is shown. */
const KEEP = 0.95;

function progressOn(line: ProgressLine): (progress: DeprojectorProgress) => void {
  let loss: number | null = null;
  return ({ phase, done, total, step }) => {
    if (step !== undefined) loss = loss === null ? step.loss : KEEP * loss + (1 - KEEP) * step.loss;
    const activity = step === undefined || loss === null ? phase : `${phase}, loss ${loss.toFixed(4)}`;
    line.update({ activity, done, total }, phase);
  };
}

function planText({
  settings,
  prompts,
  files,
}: {
  settings: DeprojectorInput;
  prompts: number;
  files: DeprojectorFiles;
}): string {
  return [
    `Would train ${settings.model} on ${prompts} prompts, ${settings.epochs} times each; nothing is written.`,
    '',
    `${nearPath(files.deprojector)}   the deprojector`,
    '',
  ].join('\n');
}

function resultText(
  { settings, counts, heldOut, losses, parameterCount }: TrainedDeprojector,
  files: DeprojectorFiles,
  io: Io,
): string {
  const mean = (errors: readonly number[]): string =>
    (errors.reduce((a, b) => a + b, 0) / errors.length).toPrecision(3);
  return [
    `${paint(io, 'bold', settings.model)}: ${parameterCount.toLocaleString('en')} numbers from ${counts.trained} prompts, ${losses.length} steps`,
    `mean square of errors on ${counts.heldOut} held-out prompts: ${mean(heldOut.teacherForced)} behind true states, ${mean(heldOut.autoregressive)} behind its own`,
    '',
    `${nearPath(files.deprojector)}   the deprojector`,
    `${nearPath(files.settings)}   settings, losses, errors by position`,
    `${nearPath(files.plot)}   the losses drawn`,
    `${nearPath(files.state)}   what --resume goes on from`,
    `${nearPath(files.prompts)}   states of the prompts, for further trainings: --cache`,
    '',
  ].join('\n');
}
