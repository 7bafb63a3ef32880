/** A scene from its description to numbered PNG files in a folder. */

import { existsSync, readdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { InterruptedError, UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { Picture } from '../formats/picture.ts';
import { encodePng, readPngTexts, writePicture } from '../formats/png.ts';
import { infoOf } from '../io/file-info.ts';
import { makeFolder, writeUnderFreeName } from '../io/replace-file.ts';
import { toolVersion } from '../package-root.ts';
import type { Progress } from '../progress.ts';
import type { ExecutionRequest } from '../runtime/execution-context.ts';
import type { AutoRegions } from './auto-regions/auto-regions.ts';
import { openSceneModel, type SceneModel } from './model-source.ts';
import { recipeTexts } from './picture-recipe.ts';
import { Pipeline, type SampledPicture } from './sample.ts';
import { saveMasks } from './saved-masks.ts';
import type { NormalScene } from './scene.ts';
import { type PreparedScene, prepareScene } from './scene-request.ts';

/** A scene whose files are open and checked; no network is loaded yet. */
export interface PlannedScene extends PreparedScene {
  readonly model: SceneModel;
}

/**
 * Open and check everything that a scene names.
 * @throws {UsageError | FormatError | MismatchError} for what cannot be drawn
 */
export async function planScene(scene: NormalScene): Promise<PlannedScene> {
  const model = await openSceneModel(scene);
  return { model, ...(await prepareScene(scene, model)) };
}

/** 16,384 × 16,384: all pictures of a sheet are held until it is written. */
const MAX_GRID_PIXELS = 2 ** 28;

export interface DrawSceneOptions extends ExecutionRequest {
  /**
   * Folder of the pictures; made if missing. Numbers go on after those that are there; of two runs at once into one folder
   * each takes numbers of its own.
   */
  readonly folder: string;
  /** Also write one sheet with all pictures of the run. Default false. */
  readonly grid?: boolean;
  /** Write `preview.png` every so many steps; 0 (default) never. */
  readonly previewEvery?: number;
  /** Folder for the places that `autoRegions` found, each picture's in one of its own (saved-masks.ts). Default: not kept. */
  readonly masks?: string;
  /** Store the recipe in the pictures. Default true. */
  readonly metadata?: boolean;
  readonly onProgress?: (progress: DrawProgress) => void;
  /** Ends the drawing at once; finished pictures stay. */
  readonly signal?: AbortSignal;
}

/** Steps of all pictures. */
export interface DrawProgress extends Progress {
  /** Picture at work, from 1. */
  readonly picture: number;
}

export interface DrawnPicture {
  /** Absolute. */
  readonly file: string;
  readonly seed: number;
  readonly width: number;
  readonly height: number;
}

export interface DrawnScene {
  readonly folder: string;
  readonly pictures: readonly DrawnPicture[];
  /** The sheet; null if none was asked for. */
  readonly grid: string | null;
  /** Scenes of the places that were kept, picture by picture. */
  readonly scenes: readonly string[];
  /** What was found out on the way: words that found no place. */
  readonly notes: readonly string[];
  readonly elapsedMs: number;
}

/**
 * Draw a planned scene. Each picture is written as soon as it is finished, complete or not at all.
 * @throws {UsageError} if the folder is a file, or the sheet would be too large
 * @throws {NumericalError} if latents stop being finite; {InterruptedError} saying how many pictures are kept
 */
export async function drawScene(planned: PlannedScene, options: DrawSceneOptions): Promise<DrawnScene> {
  const { model, scene, states } = planned;
  const { grid = false, previewEvery = 0, metadata = true, onProgress, runtime, threads, signal } = options;
  if (grid) checkGrid(planned.request.count ?? 1, scene.width ?? 0, scene.height ?? 0);
  const folder = path.resolve(options.folder);
  if (infoOf(folder)?.isFile()) {
    throw new UsageError(`${folder}: expected a folder for the pictures, got a file`);
  }
  const preview = path.join(folder, 'preview.png');
  if (previewEvery > 0) await checkPreview(preview);
  await makeFolder(folder);
  const start = performance.now();
  const request =
    states === null ? planned.request : await states.fill(planned.request, { runtime, threads, signal });
  const clipSkip = scene.clipSkip ?? 0;
  const pipeline = await Pipeline.create(model.base, {
    ...model,
    placedDeltas: model.concepts.map(({ deltas }) => deltas),
    clipSkip,
    runtime,
    threads,
    signal,
  });
  const auto = request.autoRegions;
  if (options.masks !== undefined && auto === undefined) {
    throw new UsageError('masks: expected regions that find their places, got none');
  }
  const scenes: string[] = [];
  const notes: string[] = [];
  const pictures: DrawnPicture[] = [];
  const kept: Picture[] = [];
  const count = request.count ?? 1;
  const pictureName = (n: number): string => path.join(folder, `${numbered(n)}.png`);
  let next = nextNumber(folder);
  let finished = 0;
  try {
    await pipeline.sample(request, {
      keep: false,
      signal,
      onStep: async ({ pictures: batch, step, steps, preview: decode }) => {
        onProgress?.({
          done: finished * steps + step * batch.length,
          total: count * steps,
          picture: finished + 1,
        });
        if (previewEvery > 0 && step % previewEvery === 0 && step < steps) {
          await writePicture(preview, await decode(), PREVIEW_TEXTS);
        }
      },
      onPicture: async (picture) => {
        const texts = metadata
          ? recipeTexts(scene, picture.seed, model.base.path, toolVersion(), folder)
          : {};
        const { file, n } = await writeUnderFreeName(pictureName, [await encodePng(picture, texts)], next);
        next = n + 1;
        pictures.push({ file, seed: picture.seed, width: picture.width, height: picture.height });
        if (auto !== undefined) notes.push(...placeNotes(picture, auto));
        if (auto !== undefined && options.masks !== undefined) {
          const { seed, found: places } = picture;
          const found = { scene, auto, concepts: model.concepts, seed, places };
          scenes.push(await saveMasks(found, path.resolve(options.masks)));
        }
        if (grid) kept.push(picture);
        finished++;
      },
    });
  } catch (error) {
    if (signal?.aborted !== true || error !== signal.reason) throw error;
    if (finished === 0)
      throw new InterruptedError('no picture was finished yet, and no half-written file was left', {
        cause: error,
      });
    const what = finished === 1 ? '1 finished picture is' : `${finished} finished pictures are`;
    throw new InterruptedError(`${what} kept in ${folder}`, { cause: error });
  } finally {
    await pipeline.dispose();
    if (previewEvery > 0) await rm(preview, { force: true });
  }
  let sheet: string | null = null;
  if (grid) {
    const first = Number.parseInt(path.basename(pictures[0]!.file), 10);
    const sheetName = (n: number): string => path.join(folder, `grid-${numbered(n)}.png`);
    sheet = (await writeUnderFreeName(sheetName, [await encodePng(pictureGrid(kept))], first)).file;
  }
  return { folder, pictures, grid: sheet, scenes, notes, elapsedMs: performance.now() - start };
}

/** Tells previews from pictures of that name. */
const PREVIEW_TEXTS = { Comment: 'edlora preview' };

/** @throws {UsageError} if a picture of the user's has the preview's name */
async function checkPreview(file: string): Promise<void> {
  if (!existsSync(file)) return;
  const texts = await readPngTexts(file).catch(() => new Map<string, string>());
  if (texts.get('Comment') !== PREVIEW_TEXTS.Comment) {
    throw new UsageError(`${file}: exists, and is no preview; move it away, or draw without previews`);
  }
}

/** Words of a picture that found no place of their own, each with the share that it was given. */
function placeNotes({ seed, found }: SampledPicture, { regions }: AutoRegions): string[] {
  const called = (region: number): string => excerpt(regions[region]!.words.join(' '));
  return found.flatMap(({ share, doubt }, region) => {
    if (doubt === null) return [];
    const why =
      doubt.kind === 'flat'
        ? 'its words are nowhere more than elsewhere'
        : `its words are where ${called(doubt.word)} is`;
    return [
      `seed ${seed}: ${called(region)} found no place of its own (${why}); it was given ${Math.round(100 * share)} % of the picture. Try another seed, a prompt that says where it is, or a region drawn for it`,
    ];
  });
}

const numbered = (n: number): string => String(n).padStart(4, '0');

/** One more than the highest number of a picture in the folder. */
function nextNumber(folder: string): number {
  const numbers = existsSync(folder)
    ? readdirSync(folder).map((name) => Number(/^(\d{4,})\.png$/.exec(name)?.[1] ?? -1))
    : [];
  return Math.max(-1, ...numbers) + 1;
}

/** @throws {UsageError} for a sheet that is larger than any picture that is read */
function checkGrid(count: number, width: number, height: number): void {
  const pixels = count * width * height;
  if (pixels <= MAX_GRID_PIXELS) return;
  throw new UsageError(
    `a sheet of ${count} pictures of ${width} × ${height}: expected at most ${MAX_GRID_PIXELS} pixels, got ${pixels}; draw fewer at once, or leave out \`grid\``,
  );
}

/** Pictures of one size, row by row, as near to a square as they go. */
export function pictureGrid(pictures: readonly Picture[]): Picture {
  const { width, height } = pictures[0]!;
  const columns = Math.max(1, Math.round(Math.sqrt((pictures.length * height) / width)));
  const rows = Math.ceil(pictures.length / columns);
  const data = new Uint8Array(columns * width * rows * height * 3);
  pictures.forEach((picture, i) => {
    const [left, top] = [(i % columns) * width, Math.floor(i / columns) * height];
    for (let y = 0; y < height; y++) {
      const row = picture.data.subarray(y * width * 3, (y + 1) * width * 3);
      data.set(row, ((top + y) * columns * width + left) * 3);
    }
  });
  return { width: columns * width, height: rows * height, data };
}
