/** Writing a fusion: the merged LoRA, the words' embeddings, recipe and report, and on demand a whole model. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { type LoraNaming, type MergedLayer, writeEmbeddings, writeLora } from '../concepts/lora-file.ts';
import { UsageError } from '../errors.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { rankOf } from '../linalg/low-rank.ts';
import { writeFusedCheckpoint } from './checkpoint-output.ts';
import type { Fusion } from './fuse.ts';
import { fusionRecipe } from './recipe.ts';

export interface WriteFusionOptions {
  /** How the merged LoRA's keys are spelled. Default `kohya`. */
  readonly naming?: LoraNaming;
  /** Also write `model/`: a complete diffusers folder with fused weights. Default false. */
  readonly checkpoint?: boolean;
  /** Write into a folder that is not empty, replacing files of the same names. Default false. */
  readonly force?: boolean;
}

export interface WrittenFile {
  /** Absolute. */
  readonly path: string;
  /** Of a folder: of all files in it. */
  readonly sizeBytes: number;
  /** In words. */
  readonly what: string;
}

/**
 * Check that results may go to a folder; do this before the work.
 * @throws {UsageError} if it is a file, or holds something and `force` is off
 */
export function checkOutputFolder(folder: string, force = false): void {
  const info = statSync(folder, { throwIfNoEntry: false });
  if (info === undefined) return;
  if (!info.isDirectory()) throw new UsageError(`${folder}: expected a folder for the results, got a file`);
  if (!force && readdirSync(folder).length > 0) {
    throw new UsageError(
      `${folder}: exists and is not empty; choose another --out, or --force to replace its files`,
    );
  }
}

/**
 * Write a fusion's results. Each file appears complete or not at all.
 *
 * `lora.safetensors` (naming `peft`: the folder `lora/`) holds exactly W* − W₀, rank ≤ Σ r_i;
 * `embeddings.safetensors` per word [L, D]; `recipe.json`, `report.json`, `report.html`; `model/` on demand.
 * @throws {UsageError} as `checkOutputFolder`; {EdloraError} when the disk is full: files that stood there stay
 */
export async function writeFusion(
  fusion: Fusion,
  folder: string,
  { naming = 'kohya', checkpoint = false, force = false }: WriteFusionOptions = {},
): Promise<{ folder: string; files: WrittenFile[] }> {
  checkOutputFolder(folder, force);
  const target = path.resolve(folder);
  await mkdir(target, { recursive: true });
  const recipe = await fusionRecipe(fusion, naming);
  const tokens = fusion.participants.flatMap(({ concept }) => concept.tokens);
  const files: WrittenFile[] = [];
  const done = (name: string, what: string): void => {
    const file = path.join(target, name);
    files.push({ path: file, sizeBytes: sizeOnDisk(file), what });
  };

  const lora = naming === 'peft' ? 'lora' : 'lora.safetensors';
  await writeLora(path.join(target, lora), mergedLayers(fusion), {
    naming,
    title: fusion.participants.map(({ name }) => name).join(' + '),
    mergedFrom: fusion.participants.map(({ concept }) => path.parse(concept.path).name),
    tokens,
    metadata: { 'edlora.recipe': JSON.stringify(recipe) },
  });
  done(lora, `merged LoRA (${naming} names)`);
  if (tokens.length > 0) {
    await writeEmbeddings(path.join(target, 'embeddings.safetensors'), tokens);
    done('embeddings.safetensors', 'embeddings of the concepts’ words');
  }
  // The charting library takes a while to load: only those who draw wait for it.
  const { fusionReportPage } = await import('./report/report-page.ts');
  for (const [name, text, what] of [
    ['recipe.json', `${JSON.stringify(recipe, null, 2)}\n`, 'options, inputs and their hashes'],
    ['report.json', `${JSON.stringify(fusion.report, null, 2)}\n`, 'what was kept, layer by layer'],
    ['report.html', fusionReportPage(fusion.report, recipe), 'the same for reading'],
  ] as const) {
    await writeFileAtomically(path.join(target, name), [text]);
    done(name, what);
  }
  if (checkpoint) {
    await writeFusedCheckpoint(fusion, path.join(target, 'model'));
    done('model', 'diffusers folder with the fused weights');
  }
  return { folder: target, files };
}

/** The merged factors as a LoRA file takes them; 1×1 convolutions of the base get a kernel. */
function* mergedLayers({ layers, base }: Fusion): Generator<MergedLayer> {
  for (const { component, layerName, delta } of layers.values()) {
    const weights = component === 'unet' ? base.unet.weights : base.textEncoder.weights;
    yield {
      component,
      layerName,
      up: Float32Array.from(delta.up.data),
      down: Float32Array.from(delta.down.data),
      rank: rankOf(delta),
      kernel: weights.get(`${layerName}.weight`)?.shape.length === 4 ? [1, 1] : null,
    };
  }
}

function sizeOnDisk(target: string): number {
  if (!existsSync(target)) return 0;
  const info = statSync(target);
  if (!info.isDirectory()) return info.size;
  return readdirSync(target).reduce((sum, name) => sum + sizeOnDisk(path.join(target, name)), 0);
}
