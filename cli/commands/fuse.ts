/** `edlora fuse`: separately trained concepts into one merged LoRA. */
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import {
  baseFiles,
  type Checkpoint,
  type CheckpointOptions,
  checkFusionTarget,
  checkPortTarget,
  conceptFiles,
  DEFAULTS,
  defaultBase,
  defaultCaptions,
  estimateFusion,
  type Fusion,
  type FusionConceptInput,
  fuse,
  type LoraNaming,
  planFusion,
  portable,
  portableWords,
  readCaptions,
  readFusionRecipe,
  recipeConcepts,
  UsageError,
  withEmptyPrompt,
  writeFusion,
  writePort,
} from '../../src/index.ts';
import { withDefaults } from '../../src/settings.ts';
import { asTyped } from '../arguments.ts';
import { openBase } from '../base.ts';
import type { Command, CommandContext } from '../command.ts';
import { readConcepts } from '../fusion/concepts.ts';
import { fuseOptions, readFuseOptions } from '../fusion/fuse-options.ts';
import { idleNotes, readCacheFolder } from '../fusion/options.ts';
import { planData, planText } from '../fusion/plan.ts';
import { idlePortNotes, portProgress, readPortOptions } from '../fusion/port.ts';
import { fusionProgress } from '../fusion/progress.ts';
import { resultData, resultText } from '../fusion/result.ts';
import { readBaseOptions, text } from '../options.ts';
import { type Io, sayNote } from '../terminal/io.ts';

type Args = Readonly<Record<string, unknown>>;

export const fuseCommand: Command = {
  usage: 'fuse',
  description: 'Fuse concepts into one merged LoRA',
  options: fuseOptions,
  examples: [
    [
      'edlora fuse --concepts fixtures/tiny-world/concepts/edlora_smiley.pth fixtures/tiny-world/concepts/edlora_bullseye.pth',
      'Two shipped concepts on the shipped miniature',
    ],
    [
      'edlora fuse --config fixtures/tiny-world/concepts/concepts.json --out four --dry-run',
      'What would be fused',
    ],
    [
      'edlora fuse --extend fused --concepts fixtures/tiny-world/concepts/edlora_checker.pth --out three',
      'One more concept: only its features are collected',
    ],
    [
      'edlora fuse --base stable-diffusion-xl-base-1.0 --concepts toy.safetensors style.safetensors --out fused --dry-run',
      'SDXL: what two LoRAs are called, and what their fusion will take',
    ],
    [
      'edlora fuse --config fixtures/tiny-world/concepts/concepts.json --out four --checkpoint',
      'Four concepts, as LoRA and as a whole model',
    ],
  ],
  // Features of a partly fused model belong to this fusion alone.
  keeps: (args) =>
    readCacheFolder(args) === null || args.statistics === 'fused'
      ? 'nothing is kept, and no half-written file was left'
      : 'features collected so far are kept: the same line goes on from them',
  run: runFuse,
};

async function runFuse(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const earlier = text(args, 'extend') === undefined ? null : await readFusionRecipe(text(args, 'extend')!);
  const options = readFuseOptions(args, earlier?.options ?? DEFAULTS);
  const portOptions = readPortOptions(args);
  const out = text(args, 'out')!;
  const [checkpoint, force] = [args.checkpoint === true, args.force === true];
  const basePath = text(args, 'base') ?? earlier?.base.path ?? defaultBase();
  if (checkpoint && statSync(basePath, { throwIfNoEntry: false })?.isFile() === true) {
    throw new UsageError(`${basePath}: --checkpoint needs a diffusers folder as --base, got a single file`);
  }
  const captionFile = text(args, 'preserve-captions');
  const captions = captionFile === undefined ? earlier?.captions : await readCaptions(captionFile);
  const concepts = [
    ...(earlier === null ? [] : await recipeConcepts(earlier)),
    ...(await readConcepts(args, earlier !== null)),
  ];
  const recorded = text(args, 'base') === undefined ? earlier?.base.prediction : undefined;
  const base = await openBase(
    basePath,
    withDefaults<CheckpointOptions>({ prediction: recorded }, readBaseOptions(args)),
    io,
  );
  const words = concepts.flatMap(({ concept }) => concept.tokens.map(({ word }) => word));
  const ported = args.portable === true && words.length > 0;
  if (args.portable === true && !ported) {
    sayNote(
      io,
      '--portable: no concept has words of its own; a plain LoRA is what other programs read already',
    );
  }
  const portFolder = path.join(out, 'portable');
  if (args['dry-run'] !== true) {
    if (ported) checkPortTarget(portFolder, [...portableWords(words, base.tokenizer).values()], { force });
    else if (existsSync(portFolder)) {
      throw new UsageError(
        `${portFolder}: of an earlier fusion; this one writes none, so it would stand beside results that it does not belong to: move it away, choose another --out, or give --portable`,
      );
    }
    checkFusionTarget(out, {
      naming: args.format as LoraNaming,
      checkpoint,
      force,
      inputs: inputFiles(args, base, concepts),
      words: words.length > 0,
      layers: concepts.some(({ concept }) => concept.layers.size > 0),
    });
  }
  const preserved = captions === undefined ? {} : { preserveCaptions: captions };
  const request = {
    base,
    concepts,
    options,
    signal,
    threads,
    cacheFolder: readCacheFolder(args),
    ...preserved,
  };
  const idle = [...idleNotes(args, options), ...(ported ? [] : idlePortNotes(args))];
  if (args['dry-run'] === true) {
    const plan = await planFusion({ ...request, onNote: (text) => idle.push(text) });
    const port = ported ? { options: portOptions, captions: await portCaptions(base, plan.captions) } : null;
    const estimate = await measured(io, () => estimateFusion(request, plan, port));
    const data = (): string => `${JSON.stringify(planData(plan, estimate, base.path, out, idle), null, 2)}\n`;
    io.out(args.json === true ? data() : planText(plan, estimate, base.path, out, io.columns, idle));
    return;
  }
  for (const note of idle) sayNote(io, note);
  const progress = args.quiet === true ? null : fusionProgress(io, options.steps);
  const said = idle.map(asTyped);
  let fusion: Fusion;
  try {
    fusion = await fuse({
      ...request,
      ...(progress === null ? {} : { onProgress: progress.show }),
      onNote: (text) => {
        said.push(asTyped(text));
        sayNote(io, text);
      },
    });
  } finally {
    progress?.finish();
  }
  const naming = args.format as LoraNaming;
  const written = await writeFusion(fusion, out, { naming, checkpoint, force, signal });
  if (ported) {
    const { concepts: fused } = fusion;
    const named = fused.filter(({ concept }) => concept.tokens.length > 0);
    const porting = args.quiet === true ? null : portProgress(io);
    const port = await portable({
      base,
      deltas: new Map([...fusion.layers].map(([id, { delta }]) => [id, delta])),
      concepts: named.map(({ concept }) => concept),
      names: named.map(({ name }) => name),
      teachers: fused,
      size: options.size,
      captions: await portCaptions(base, fusion.captions),
      options: portOptions,
      signal,
      threads,
      ...(porting === null ? {} : { onProgress: porting.show }),
    }).finally(() => porting?.finish());
    const { files } = await writePort(
      base,
      port,
      named.map(({ name }) => name),
      portFolder,
      { force, signal },
    );
    written.files.push({
      path: path.resolve(portFolder),
      sizeBytes: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      what: 'for other programs: one embedding per word',
    });
  }
  const data = (): string => `${JSON.stringify(resultData(fusion, written, said), null, 2)}\n`;
  io.out(args.json === true ? data() : resultText(fusion, written, io));
}

/** What a port is to read as the base does: what the fusion preserved, or else what it would have. */
async function portCaptions(base: Checkpoint, preserved: readonly string[]): Promise<readonly string[]> {
  return preserved.length > 0 ? preserved : withEmptyPrompt(await defaultCaptions(base));
}

/** Says on a terminal what it waits for. */
async function measured<T>(io: Io, measure: () => Promise<T>): Promise<T> {
  if (io.interactive) io.redraw('measuring a denoising step…');
  try {
    return await measure();
  } finally {
    if (io.interactive) io.redraw('');
  }
}

/** Everything that is read, none of which may be a result. */
function inputFiles(args: Args, base: Checkpoint, concepts: readonly FusionConceptInput[]): string[] {
  const named = ['config', 'preserve-captions'].flatMap((name) => text(args, name) ?? []);
  const earlier = text(args, 'extend');
  return [
    ...named,
    ...(earlier === undefined ? [] : [path.join(earlier, 'recipe.json')]),
    ...[base.path, ...baseFiles(base)],
    ...concepts.flatMap(({ concept }) => [concept.path, ...conceptFiles(concept)]),
  ];
}
