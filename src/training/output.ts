/** Writing what was trained: the concept's file, and beside it its settings with the losses, and a plot of them. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { lossPlot } from '../charts/loss-plot.ts';
import { type LoraNaming, namingHoldsWords, writeEmbeddings, writeLora } from '../concepts/lora-file.ts';
import { UsageError } from '../errors.ts';
import { FACTOR_DTYPES } from '../formats/dtype.ts';
import { recordedPath } from '../io/recorded-path.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { checkFileTarget, checkFolderTarget, type TargetRules } from '../io/targets.ts';
import { familyOfAdapters } from '../models/families/families.ts';
import { toolVersion } from '../package-root.ts';
import { TRAINING_METHODS } from './methods/index.ts';
import type { ResolvedSettings } from './methods/method.ts';
import { previousStateFile } from './run-state.ts';
import type { TrainedConcept } from './train.ts';

export interface TrainedFiles {
  /** Absolute paths. */
  readonly concept: string;
  /** The words' embeddings, where the concept's file holds none; `null` where it does, or there are no words. */
  readonly embeddings: string | null;
  readonly settings: string;
  readonly plot: string;
}

/** Where a run keeps its state, beside its result. */
export const stateFileOf = (out: string): string => `${stemOf(out)}.state.safetensors`;

const stemOf = (out: string): string => path.resolve(out).replace(/\.(safetensors|pth)$/, '');

/**
 * How the file will be written; do this before the work.
 * @throws {UsageError} for a name that no format has, for a `.pth` that is not Mix-of-Show's, and for a format that cannot
 *   hold what is trained
 */
export function namingOf(out: string, settings: ResolvedSettings): LoraNaming {
  const { format, token, convRank, method } = settings;
  const naming = format === 'auto' ? (token !== '' || out.endsWith('.pth') ? 'ed-lora' : 'kohya') : format;
  if (naming === 'ed-lora' && convRank > 0) {
    throw new UsageError(
      `convRank: files in ED-LoRA's names hold no convolutions larger than 1 × 1; choose kohya, diffusers or peft as \`format\``,
    );
  }
  if (!namingHoldsWords(naming) && !trainsLayers(settings)) {
    throw new UsageError(
      `format: ${method} changes words alone here, and files in ${naming} names hold none; use ed-lora as \`format\``,
    );
  }
  if (naming === 'peft') return naming;
  if (!/\.(safetensors|pth)$/.test(out)) {
    throw new UsageError(`${out}: expected a name that ends in .safetensors or .pth`);
  }
  if (out.endsWith('.pth') && naming !== 'ed-lora') {
    throw new UsageError(`${out}: .pth is Mix-of-Show's form; use .safetensors for ${naming}`);
  }
  return naming;
}

/** Whether there will be a layer to write. */
function trainsLayers({ method, lrUnet, lrText }: ResolvedSettings): boolean {
  const { unet, text } = TRAINING_METHODS[method];
  return (unet !== 'none' && lrUnet !== 0) || (text && lrText !== 0);
}

/**
 * Check that a run may write its results; do this before the work.
 * @param rules.inputs files and folders that are read
 * @param rules.force  replace what an earlier run wrote
 * @param rules.resume go on with an earlier run, whose files are then this one's
 * @throws {UsageError} if a file to be written is an input, or of an earlier run that is neither gone on with nor given up
 */
export function checkTrainedTarget(
  out: string,
  settings: ResolvedSettings,
  { inputs, force, resume }: TargetRules & { readonly resume: boolean },
): void {
  const rules = { inputs, force: force || resume };
  const naming = namingOf(out, settings);
  if (naming === 'peft') checkFolderTarget(out, rules);
  else checkFileTarget(out, rules);
  const { concept: _, ...beside } = resultFiles(out, naming, settings.token !== '');
  const { steps, sampleEvery } = settings;
  const pictures = sampleEvery > 0 ? Math.floor(steps / sampleEvery) : 0;
  for (let i = 1; i <= pictures; i++) checkFileTarget(samplePicture(out, i * sampleEvery), rules);
  for (const file of Object.values(beside)) if (file !== null) checkFileTarget(file, rules);
  const state = stateFileOf(out);
  if (!rules.force && existsSync(state)) {
    throw new UsageError(
      `${state}: the state of an earlier run; \`resume\` goes on with it, \`force\` starts anew`,
    );
  }
  checkFileTarget(state, rules);
  checkFileTarget(previousStateFile(state), { ...rules, force: true });
}

/** Where the picture of a step goes. */
export const samplePicture = (out: string, step: number): string =>
  `${stemOf(out)}.step-${String(step).padStart(5, '0')}.png`;

const resultFiles = (out: string, naming: LoraNaming, words: boolean): TrainedFiles => ({
  concept: path.resolve(out),
  embeddings: words && !namingHoldsWords(naming) ? `${stemOf(out)}.embeddings.safetensors` : null,
  settings: `${stemOf(out)}.train.json`,
  plot: `${stemOf(out)}.loss.svg`,
});

/**
 * Write the results; each file appears complete or not at all.
 *
 * `out`: the concept; `<out>.embeddings.safetensors`: its words, where it cannot hold them; `<out>.train.json`: settings, method
 * and losses; `<out>.loss.svg`.
 * @throws {EdloraError} when the disk is full: files that stood there stay
 */
export async function writeTrained(out: string, trained: TrainedConcept): Promise<TrainedFiles> {
  const { family, method, settings, tokens, layers, log } = trained;
  const naming = namingOf(out, settings);
  const files = resultFiles(out, naming, tokens.length > 0);
  if (files.embeddings !== null) await writeEmbeddings(files.embeddings, tokens);
  await writeLora(path.resolve(out), layers, {
    naming,
    family: familyOfAdapters(family),
    tokens,
    dtype: FACTOR_DTYPES[settings.dtype],
    metadata: {
      'edlora.method': method.name,
      'edlora.settings': JSON.stringify(publicSettings(settings)),
    },
  });
  const record = {
    tool: `edlora ${toolVersion()}`,
    method: { name: method.name, source: method.source },
    settings: recordedSettings(settings, path.dirname(files.settings)),
    pictures: trained.pictures,
    views: trained.views,
    log,
  };
  await writeFileAtomically(files.settings, [`${JSON.stringify(record, null, 2)}\n`]);
  await writeFileAtomically(files.plot, [await lossPlot(log)]);
  return files;
}

/** Settings without the paths of one machine. */
function publicSettings(settings: ResolvedSettings): Record<string, unknown> {
  const { data, classData, captionFolder, masks, ...rest } = settings;
  return isFolder(masks) ? rest : { ...rest, masks };
}

/** Settings with folders as seen from the result's, those elsewhere by name alone. */
function recordedSettings(settings: ResolvedSettings, folder: string): ResolvedSettings {
  const place = (own: string): string => (own === '' ? own : recordedPath(path.resolve(own), folder));
  const { data, classData, captionFolder, masks } = settings;
  return {
    ...settings,
    data: place(data),
    classData: place(classData),
    captionFolder: place(captionFolder),
    masks: isFolder(masks) ? place(masks) : masks,
  };
}

const isFolder = (masks: string): boolean => masks !== 'auto' && masks !== 'none';
