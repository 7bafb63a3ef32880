/**
 * Places that were found, as files to edit: for each picture a folder of its own with one mask a region, white where the region is, and
 * the scene that draws the picture in them. What is there already stays.
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { stringify } from 'yaml';
import { writePicture } from '../formats/png.ts';
import { relativeRecord } from '../io/recorded-path.ts';
import { makeFolder, writeFileAtomically } from '../io/replace-file.ts';
import type { AutoRegions } from './auto-regions/auto-regions.ts';
import type { FoundPlace } from './auto-regions/found-places.ts';
import type { SceneConcept } from './model-source.ts';
import type { SoftMask } from './region.ts';
import { type NormalScene, normalScene, type WeightFile } from './scene.ts';
import type { Scene } from './scene-schema.ts';

export interface FoundScene {
  /** As it was drawn, with defaults in place. */
  readonly scene: NormalScene;
  readonly auto: AutoRegions;
  readonly concepts: readonly SceneConcept[];
  /** Of the picture. */
  readonly seed: number;
  /** In the order of the regions. */
  readonly places: readonly FoundPlace[];
}

/**
 * @param folder that holds a folder for each picture; made if missing
 * @returns the scene file
 */
export async function saveMasks(found: FoundScene, folder: string): Promise<string> {
  const { scene, auto, concepts, seed, places } = found;
  await makeFolder(folder);
  const own = await freshFolder(folder, seed);
  const { width = 0, height = 0 } = scene;
  const regions = [];
  const placed = wordless(auto, concepts);
  for (const [i, { prompt, words, negativePrompt }] of auto.regions.entries()) {
    const mask = path.join(own, `${i + 1}-${fileName(words)}.png`);
    await writePicture(mask, grayPicture(places[i]!.mask, width, height), {});
    regions.push({ prompt, negative: negativePrompt, mask, loras: placed[i] });
  }
  const { autoRegions: _, ...rest } = scene;
  const everywhere = ({ path: file }: WeightFile): boolean =>
    !placed.some((files) => files?.some((own) => own.path === file));
  const drawn = {
    ...rest,
    concepts: scene.concepts.filter(everywhere),
    loras: scene.loras.filter(everywhere),
    prompt: auto.background,
    seed,
    count: 1,
    batch: 1,
    regions,
  };
  const seen = normalScene(drawn as Scene, (file) => relativeRecord(path.resolve(file), own) ?? file);
  const file = path.join(own, 'scene.yaml');
  await writeFileAtomically(file, [stringify(JSON.parse(JSON.stringify(seen)))]);
  return file;
}

/** By region, the files that no word of theirs brings there: a drawn region has to name them. */
function wordless({ regions }: AutoRegions, concepts: readonly SceneConcept[]): (WeightFile[] | undefined)[] {
  return regions.map(({ words, concepts: uses = [] }) => {
    const files = uses.flatMap(({ concept, unetStrength = 1, textEncoderStrength = 1 }) => {
      const { path: file, phrase } = concepts[concept]!;
      return phrase !== null && words.includes(phrase.name)
        ? [{ path: file, unetStrength, textEncoderStrength }]
        : [];
    });
    return files.length === 0 ? undefined : files;
  });
}

/** A folder that was not there: `seed-7`, or `seed-7-2` and so on. */
async function freshFolder(folder: string, seed: number): Promise<string> {
  for (let n = 1; ; n++) {
    const own = path.join(folder, n === 1 ? `seed-${seed}` : `seed-${seed}-${n}`);
    try {
      await mkdir(own);
      return own;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
}

/** Letters and digits of words. */
function fileName(words: readonly string[]): string {
  return (
    words
      .join('-')
      .replace(/[^\p{L}\p{N}-]+/gu, '')
      .slice(0, 80) || 'region'
  );
}

/** Cells as squares, so that what is averaged over a cell is what it was. */
function grayPicture(mask: SoftMask, width: number, height: number) {
  const data = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.floor((y * mask.height) / height) * mask.width;
    for (let x = 0; x < width; x++) {
      const value = Math.round(255 * mask.data[row + Math.floor((x * mask.width) / width)]!);
      data.fill(value, 3 * (y * width + x), 3 * (y * width + x + 1));
    }
  }
  return { width, height, data };
}
