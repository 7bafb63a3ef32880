/**
 * What a picture carries: `parameters`, the text that web UIs show and read, and `edlora.scene`, the complete scene,
 * from which it can be drawn again.
 */

import path from 'node:path';
import { z } from 'zod';
import { FormatError, UsageError } from '../errors.ts';
import { readPngTexts } from '../formats/png.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { parseJson } from '../formats/strict-json.ts';
import { placeOfRecord, recordedPath } from '../io/recorded-path.ts';
import { defaultBase } from '../package-root.ts';
import { samplerDisplayName } from './samplers/create.ts';
import { type NormalScene, normalScene } from './scene.ts';
import { checkScene } from './scene-file.ts';
import type { Scene } from './scene-schema.ts';

/** Keyword of the scene in a PNG file. */
export const SCENE_KEY = 'edlora.scene';
/** Keyword of the text that web UIs read. */
export const PARAMETERS_KEY = 'parameters';

/** A scene with 64 regions of long prompts has less. */
const MAX_SCENE_LENGTH = 4 << 20;

/**
 * Texts for one picture's PNG file.
 * @param scene   with defaults in place
 * @param seed    the picture's own
 * @param base    path of the model
 * @param version of this program
 * @param folder  of the picture, absolute: the scene names its files as seen from there, those elsewhere by name alone
 */
export function recipeTexts(
  scene: NormalScene,
  seed: number,
  base: string,
  version: string,
  folder: string,
): Record<string, string> {
  const { base: named, ...rest } = scene;
  const used = scene.fused === undefined ? base : named;
  const own = { ...rest, seed, count: 1, batch: 1 };
  // The shipped miniature is what is drawn with where no model is named.
  const told = used === undefined || used === defaultBase() ? own : { ...own, base: used };
  const shared = normalScene(told as Scene, (file) => recordedPath(path.resolve(file), folder));
  return {
    [PARAMETERS_KEY]: parametersText(own, base, version),
    [SCENE_KEY]: JSON.stringify({ edlora: version, scene: shared }),
  };
}

/** Prompt, negative prompt, and one last line of `Key: value` pairs, as the AUTOMATIC1111 web UI writes it. */
function parametersText(scene: NormalScene, base: string, version: string): string {
  const { prompt = '', negative = '', schedule, clipSkip, init } = scene;
  const fields: [string, string | number | undefined][] = [
    ['Steps', scene.steps],
    ['Sampler', scene.sampler === undefined ? undefined : samplerDisplayName(scene.sampler)],
    ['Schedule type', schedule?.includes('karras') ? 'Karras' : undefined],
    ['CFG scale', scene.guidance],
    ['Seed', scene.seed],
    ['Size', `${scene.width}x${scene.height}`],
    ['Model', path.parse(base).name],
    ['Denoising strength', init?.denoise],
    // The web UI counts the last layer as 1.
    ['Clip skip', clipSkip === undefined || clipSkip === 0 ? undefined : clipSkip + 1],
    ['RNG', 'CPU'],
    ['Regions', scene.regions.length > 0 ? scene.regions.length : undefined],
    ['Version', `edlora ${version}`],
  ];
  const line = fields
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}: ${quoted(String(value))}`)
    .join(', ');
  return [prompt, ...(negative === '' ? [] : [`Negative prompt: ${negative}`]), line].join('\n');
}

function quoted(value: string): string {
  return /[,:\n]/.test(value) ? JSON.stringify(value) : value;
}

const embedded = z.object({ edlora: z.string(), scene: z.unknown() });

/**
 * The scene that a picture was drawn from, its files as absolute paths: as seen from the picture, or from the working
 * folder where they are not there.
 * @throws {UsageError} if it carries none
 * @throws {FormatError} if it is no PNG file or damaged
 */
export async function readPictureScene(file: string): Promise<Scene> {
  const text = (await readPngTexts(file)).get(SCENE_KEY);
  if (text === undefined) {
    throw new UsageError(
      `${file}: carries no scene; was it drawn by edlora sample, and saved by nothing else since?`,
    );
  }
  if (text.length > MAX_SCENE_LENGTH) {
    throw new FormatError(
      file,
      `expected a scene of at most ${MAX_SCENE_LENGTH} characters, got ${text.length}`,
    );
  }
  const parsed = safeParse(embedded, parseJson(text, `${file} (${SCENE_KEY})`));
  if (!parsed.success) throw new UsageError(`${file}: its scene has another form than expected`);
  const scene = checkScene(parsed.data.scene, (_, name) => `${file} (${SCENE_KEY}): ${name || 'scene'}`);
  const folders = [path.dirname(path.resolve(file)), process.cwd()];
  return normalScene(scene, (name) => placeOfRecord(name, folders)) as Scene;
}
