/** Writing a fusion: the merged LoRA, the words' embeddings, recipe and report, and on demand a whole model. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import {
  type LoraNaming,
  type MergedLayer,
  namingHoldsWords,
  writeEmbeddings,
  writeLora,
} from '../concepts/lora-file.ts';
import { UsageError } from '../errors.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { stagedInto } from '../io/staging.ts';
import { checkFileTarget, checkFolderTarget, checkResultsFolder } from '../io/targets.ts';
import { rankOf } from '../linalg/low-rank.ts';
import { familyOfAdapters } from '../models/families/families.ts';
import { Pace } from '../pace.ts';
import { writeFusedCheckpoint } from './checkpoint-output.ts';
import type { Fusion } from './fusion.ts';
import { baseFiles, conceptFiles, fusionRecipe } from './recipe.ts';
import { keptRecipe, sharedRecipe, sharedReport } from './recorded-recipe.ts';

export interface WriteFusionOptions {
  /** How the merged LoRA's keys are spelled. Default `kohya`. */
  readonly naming?: LoraNaming;
  /** Also write `model/`: a complete diffusers folder with fused weights. Default false. */
  readonly checkpoint?: boolean;
  /** Write into a folder that is not empty, replacing files of the same names. Default false. */
  readonly force?: boolean;
  /** Stops between two tensors by throwing its reason; what stood in the folder stays as it was. */
  readonly signal?: AbortSignal;
}

export interface WrittenFile {
  /** Absolute. */
  readonly path: string;
  /** Of a folder: of all files in it. */
  readonly sizeBytes: number;
  /** In words. */
  readonly what: string;
}

/** What is known of a fusion's files before it is made. */
export interface FusionTarget extends Required<Omit<WriteFusionOptions, 'signal'>> {
  /** Files that the fusion reads. */
  readonly inputs: readonly string[];
  /** Whether its concepts have words of their own. */
  readonly words: boolean;
  /** Whether they change layers. */
  readonly layers: boolean;
}

/**
 * Check that a fusion may be written into a folder; do this before the work.
 * @throws {UsageError} if the folder is a file, or holds something and `force` is off; if a file to be written is an input;
 *   if a result of an earlier fusion would stay beside those of this one, or is a folder with files of the user's
 */
export function checkFusionTarget(folder: string, target: FusionTarget): void {
  const { inputs, force, naming, checkpoint, words, layers } = target;
  if (!layers && !namingHoldsWords(naming)) {
    throw new UsageError(
      `format: no layer changes here, and files in ${naming} names hold no words; use ed-lora as \`format\``,
    );
  }
  checkResultsFolder(folder, force);
  const written = new Set([
    naming === 'peft' ? 'lora' : 'lora.safetensors',
    ...(words ? ['embeddings.safetensors'] : []),
    ...(checkpoint ? ['model'] : []),
    ...RECORDS,
  ]);
  for (const name of ['lora', 'lora.safetensors', 'embeddings.safetensors', 'model']) {
    if (written.has(name) || !existsSync(path.join(folder, name))) continue;
    throw new UsageError(
      `${path.join(folder, name)}: of an earlier fusion; this one writes none, so it would stand beside results that it does not belong to: move it away, or choose another folder`,
    );
  }
  for (const name of written) {
    const place = path.join(folder, name);
    if (name === 'lora' || name === 'model') checkFolderTarget(place, { inputs, force });
    else checkFileTarget(place, { inputs, force });
  }
}

/** What every fusion writes. */
const RECORDS = ['recipe.json', 'report.json', 'report.html'] as const;

/**
 * Write a fusion's results. All of them are made before the first one takes its place; each appears complete or not at all.
 *
 * `lora.safetensors` (naming `peft`: the folder `lora/`) holds exactly W* − W₀, rank ≤ Σ r_i;
 * `embeddings.safetensors` per word [L, D]; `recipe.json`, `report.json`, `report.html`; `model/` on demand.
 * @throws {UsageError} as `checkFusionTarget`; {EdloraError} when the disk is full: files that stood there stay
 * @throws {FormatError} naming an input that changed since it was opened
 */
export async function writeFusion(
  fusion: Fusion,
  folder: string,
  { naming = 'kohya', checkpoint = false, force = false, signal }: WriteFusionOptions = {},
): Promise<{ folder: string; files: WrittenFile[] }> {
  const tokens = fusion.concepts.flatMap(({ concept }) => concept.tokens);
  const inputs = [
    ...baseFiles(fusion.base),
    ...fusion.concepts.flatMap(({ concept }) => conceptFiles(concept)),
  ];
  checkFusionTarget(folder, {
    naming,
    checkpoint,
    force,
    inputs,
    words: tokens.length > 0,
    layers: fusion.layers.size > 0,
  });
  const target = path.resolve(folder);
  const recipe = await fusionRecipe(fusion, naming);
  const shared = sharedRecipe(recipe, target);
  const report = sharedReport(fusion.report, target);
  const names: [name: string, what: string][] = [];
  await stagedInto(target, async (staging) => {
    const lora = naming === 'peft' ? 'lora' : 'lora.safetensors';
    await writeLora(path.join(staging, lora), mergedLayers(fusion), {
      naming,
      family: familyOfAdapters(fusion.base.family),
      title: fusion.concepts.map(({ name }) => name).join(' + '),
      mergedFrom: fusion.concepts.map(({ concept }) => path.parse(concept.path).name),
      tokens,
      signal,
      metadata: { 'edlora.recipe': JSON.stringify(shared) },
    });
    names.push([lora, `merged LoRA (${naming} names)`]);
    if (tokens.length > 0) {
      await writeEmbeddings(path.join(staging, 'embeddings.safetensors'), tokens);
      names.push(['embeddings.safetensors', 'words, one vector per layer: for edlora']);
    }
    // The charting library takes a while to load: only those who draw wait for it.
    const { fusionReportPageSteps } = await import('./report/report-page.ts');
    const page = await new Pace(signal).run(fusionReportPageSteps(report, shared));
    for (const [name, text, what] of [
      [
        'recipe.json',
        `${JSON.stringify(keptRecipe(recipe, target), null, 2)}\n`,
        'options, inputs and their hashes',
      ],
      ['report.json', `${JSON.stringify(report, null, 2)}\n`, 'what was kept, layer by layer'],
      ['report.html', page, 'the same for reading'],
    ] as const) {
      await writeFileAtomically(path.join(staging, name), [text]);
      names.push([name, what]);
    }
    if (checkpoint) {
      await writeFusedCheckpoint(fusion, path.join(staging, 'model'), signal);
      names.push(['model', 'diffusers folder with the fused weights']);
    }
    signal?.throwIfAborted();
    // Before anything takes its place: the recipe names what was read, to the last weight.
    fusion.inputs.check();
  });
  const files = names.map(([name, what]): WrittenFile => {
    const file = path.join(target, name);
    return { path: file, sizeBytes: sizeOnDisk(file), what };
  });
  return { folder: target, files };
}

/** The merged factors as a LoRA file takes them; 1×1 convolutions of the base get a kernel. */
function* mergedLayers({ layers, base }: Fusion): Generator<MergedLayer> {
  for (const { component, layerName, delta } of layers.values()) {
    yield {
      component: component as MergedLayer['component'],
      layerName,
      up: Float32Array.from(delta.up.data),
      down: Float32Array.from(delta.down.data),
      rank: rankOf(delta),
      kernel: base.parts.get(component).layers.get(layerName)!.kernel,
    };
  }
}

function sizeOnDisk(target: string): number {
  if (!existsSync(target)) return 0;
  const info = statSync(target);
  if (!info.isDirectory()) return info.size;
  return readdirSync(target).reduce((sum, name) => sum + sizeOnDisk(path.join(target, name)), 0);
}
