/** From a scene and its model to a request: pictures opened, shapes drawn, defaults that need the model filled in. */
import path from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { pictureSize, readGrayPicture, readPicture } from '../formats/picture.ts';
import { openT2iAdapter } from '../models/adapter/open.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { openControlNet } from '../models/controlnet/open.ts';
import { vaeFactor } from '../models/vae/config.ts';
import { defined } from '../settings.ts';
import { checkpointSampler } from './checkpoint-schedule.ts';
import { isGuided } from './guidance.ts';
import type { AdapterGuide, ControlGuide, RegionStrength } from './guides.ts';
import { parseStyleMix } from './layer-groups.ts';
import type { SceneModel } from './model-source.ts';
import { checkBox, type Region, type RegionShape } from './region.ts';
import { boxMask, feathered, pictureMask, polygonMask } from './region-mask.ts';
import { parseMixOfShowRegions, parseMixOfShowStrengths } from './region-text.ts';
import {
  checkPictureSize,
  REQUEST_DEFAULTS,
  type ResolvedRequest,
  resolveRequest,
  type SampleRequest,
  textsOf,
  unknownWords,
} from './request.ts';
import { checkRequestMemory } from './request-memory.ts';
import { createSampler } from './samplers/create.ts';
import { beginIndexFor } from './samplers/sampler.ts';
import { DEFAULT_DENOISE, type NormalScene } from './scene.ts';
import { calledByPhrase, wordedScene } from './scene-auto.ts';
import { combinationNotes, placeConcepts } from './scene-concepts.ts';
import { type SceneGuide, type ScenePlace, sceneRegion, sceneStrength } from './scene-schema.ts';
import { openSceneStates, type SceneStates } from './scene-states.ts';
import type { ScheduleOverrides, TimestepSpacing } from './scheduler-options.ts';

/** Pixels, 4096 × 4096: larger masks are reduced while they are decoded, smaller ones averaged exactly. */
const MAX_WHOLE_MASK = 2 ** 24;

/** Unknown words that are named. */
const MAX_NOTED_WORDS = 20;

export interface PreparedScene {
  readonly request: SampleRequest;
  /** The scene with all defaults in place: what draws this picture again. */
  readonly scene: NormalScene;
  /** What stands in place of prompts, made when the scene is drawn; `null` where prompts are all there is. */
  readonly states: SceneStates | null;
  /** What the user should know: words that nobody knows, pictures that were resized. */
  readonly notes: readonly string[];
}

/**
 * Open a scene's pictures and bring everything into the form that the sampler takes. No network is loaded.
 * @throws {UsageError} for regions, sizes or settings that cannot be
 * @throws {FormatError | MismatchError} for pictures and adapters that cannot be used
 */
export async function prepareScene(scene: NormalScene, model: SceneModel): Promise<PreparedScene> {
  const { base } = model;
  const factor = vaeFactor((await base.parts.vae()).config);
  const notes: string[] = [];
  if (scene.autoRegions !== undefined && scene.prompt === undefined) {
    throw new UsageError('autoRegions: expected a prompt with words of concepts, got none');
  }
  const complete = withDefaultScene(scene, model, base.parts.unet.config.sampleSize * factor);
  const { width, height } = complete;
  const auto = complete.autoRegions && {
    ...wordedScene(complete.prompt, model),
    ...complete.autoRegions,
  };
  const layerPrompts = parseStyleMix(scene.styleMix ?? {}, base.parts.unet.config);
  checkPictureSize(width, height, factor);
  await checkRequestMemory(
    {
      width,
      height,
      layerPrompts,
      prompt: complete.prompt,
      negativePrompt: scene.negative ?? '',
      prompt2: scene.prompt2,
      negativePrompt2: scene.negative2,
      guidanceScale: scene.guidance ?? REQUEST_DEFAULTS.guidanceScale,
      batchSize: scene.batch ?? REQUEST_DEFAULTS.batchSize,
      count: scene.count ?? REQUEST_DEFAULTS.count,
      regions: complete.regions,
      autoRegions: auto,
    },
    drawnMasks(complete),
    base,
    factor,
  );
  const shapeOf = async (place: ScenePlace): Promise<RegionShape> => {
    // Drawing one takes up to half a second; between them signals and timers get their turn.
    await setImmediate();
    return drawShape(place, width, height, notes);
  };
  const named =
    auto === undefined ? { concepts: model.concepts, notes: [] } : calledByPhrase(auto, model.concepts);
  const placed = placeConcepts(
    auto === undefined ? complete : { ...complete, prompt: auto.background, regions: auto.regions },
    named.concepts,
  );
  notes.push(...named.notes, ...placed.notes);
  const regions: Region[] = [];
  for (const [i, { prompt, negative, weight, loras, ...place }] of complete.regions.entries()) {
    regions.push({
      concepts: placed.regions[i]!,
      prompt,
      negativePrompt: negative,
      weight,
      shape: await shapeOf(place),
    });
  }
  const sized = async (file: string) => {
    const size = await pictureSize(file);
    if (size.width !== width || size.height !== height) {
      notes.push(`${file}: resized from ${size.width} × ${size.height} to ${width} × ${height}`);
    }
    return readPicture(file, { width, height });
  };
  const adapters: AdapterGuide[] = [];
  for (const guide of scene.guides ?? []) {
    adapters.push({
      adapter: await openT2iAdapter(guide.adapter),
      picture: await sized(guide.image),
      strength: guide.strength,
      regionStrengths: await regionStrengths(guide.regions, width, height, shapeOf),
    });
  }
  const controls: ControlGuide[] = [];
  for (const { model: folder, image, strength } of scene.controls ?? []) {
    controls.push({
      controlNet: await openControlNet(folder),
      picture: await sized(image),
      strength,
    });
  }
  const request: SampleRequest = {
    prompt: complete.prompt,
    regions,
    autoRegions: auto && {
      ...auto,
      regions: auto.regions.map(({ loras: _, ...region }, i) => ({
        ...region,
        concepts: placed.regions[i]!,
      })),
    },
    concepts: placed.context,
    width,
    height,
    adapters,
    controls,
    schedule: parseSchedule(scene),
    layerPrompts,
    ...defined({
      negativePrompt: scene.negative,
      prompt2: scene.prompt2,
      negativePrompt2: scene.negative2,
      originalSize: scene.originalSize && {
        width: scene.originalSize[0],
        height: scene.originalSize[1],
      },
      crop: scene.crop && { left: scene.crop[0], top: scene.crop[1] },
      combine: scene.combine,
      isolate: complete.isolate,
      steps: scene.steps,
      guidanceScale: scene.guidance,
      guidanceRescale: scene.guidanceRescale,
      sampler: scene.sampler,
      eta: scene.eta,
      seed: scene.seed,
      count: scene.count,
      batchSize: scene.batch,
    }),
    ...(scene.init === undefined
      ? {}
      : { init: { picture: await sized(scene.init.image), denoise: scene.init.denoise ?? DEFAULT_DENOISE } }),
  };
  const resolved = resolveRequest(request, base, factor, model.vocabulary.layerCount);
  const { steps, eta, init } = resolved;
  const config = checkpointSampler(base, resolved.sampler, resolved.schedule);
  const sampler = createSampler(config, steps, { eta });
  if (init !== undefined) beginIndexFor(sampler, steps, init.denoise);
  notes.push(...idleNotes(resolved, base));
  notes.push(...combinationNotes(resolved, model.concepts));
  notes.push(...uncalledFiles(textsOf(request), model, notes));
  const unknown = unknownWords(textsOf(request), model.vocabulary);
  for (const { word, nearest } of unknown.slice(0, MAX_NOTED_WORDS)) {
    notes.push(
      `${excerpt(word)}: no such word in this model, read as letters${nearest === null ? '' : `; did you mean ${nearest}?`}`,
    );
  }
  if (unknown.length > MAX_NOTED_WORDS) {
    notes.push(`and ${unknown.length - MAX_NOTED_WORDS} more words that this model does not have`);
  }
  return {
    request,
    notes,
    states: await openSceneStates(complete, model),
    scene: {
      ...complete,
      // None at all is another thing than the empty text where the model says so.
      negative: resolved.negativePrompt ?? (base.zerosForNoPrompt ? undefined : ''),
      combine: scene.combine,
      isolate: resolved.isolate,
      steps,
      guidance: resolved.guidanceScale,
      guidanceRescale: resolved.guidanceRescale,
      sampler: resolved.sampler,
      eta,
      seed: resolved.seed,
      count: resolved.count,
      batch: resolved.batchSize,
    },
  };
}

/** What a request asks for that changes nothing beside the rest of it. */
function idleNotes(
  {
    guidanceScale,
    guidanceRescale,
    negativePrompt,
    negativePrompt2 = '',
    regions,
    eta,
    sampler,
    originalSize,
    crop,
  }: ResolvedRequest,
  base: Checkpoint,
): string[] {
  const notes: string[] = [];
  if (base.parts.unet.config.addedInputs === undefined) {
    if (originalSize !== undefined) notes.push('`originalSize` has no effect: this model reads no sizes');
    if (crop !== undefined) notes.push('`crop` has no effect: this model reads no sizes');
  }
  const unguided = !isGuided(guidanceScale);
  if (negativePrompt2 !== '' && negativePrompt === undefined && base.zerosForNoPrompt) {
    notes.push(
      '`negative2` has no effect without `negative`: no negative prompt at all is zeros in this model',
    );
  }
  const negatives = [
    negativePrompt ?? '',
    negativePrompt2,
    ...regions.map((region) => region.negativePrompt ?? ''),
  ];
  if (unguided && negatives.some((text) => text !== '')) {
    notes.push('`negative` has no effect without guidance above 1');
  }
  if (unguided && guidanceRescale > 0) notes.push('`guidanceRescale` has no effect without guidance above 1');
  if (eta > 0 && sampler !== 'ddim') notes.push('`eta` has no effect: only the sampler ddim reads it');
  return notes;
}

/** Files that were loaded for words which no prompt has, save those that notes speak of already. */
function uncalledFiles(texts: readonly string[], model: SceneModel, said: readonly string[]): string[] {
  const { vocabulary, wordFiles } = model;
  const bound = texts.map((text) => vocabulary.layerPrompts(text)[0] ?? '');
  return wordFiles.flatMap(({ path: file, words }) => {
    const name = path.basename(file);
    const tokens = vocabulary.tokens.filter(({ word }) => words.includes(word));
    const called = tokens.some(({ names }) => bound.some((text) => text.includes(names[0]!)));
    if (called || said.some((note) => note.startsWith(`${name}:`))) return [];
    return [
      `${name}: loaded, and no prompt has ${words
        .slice(0, 4)
        .map((word) => excerpt(word))
        .join(' or ')}`,
    ];
  });
}

/** Places of a scene that become masks of the picture's size. */
function drawnMasks({ regions, guides = [] }: NormalScene): number {
  const strengths = guides.flatMap((guide) => (Array.isArray(guide.regions) ? guide.regions : []));
  return [...regions, ...strengths].filter(({ box, feather = 0 }) => box === undefined || feather > 0).length;
}

/** A scene without prompt and regions shows its concepts side by side. */
function withDefaultScene(
  scene: NormalScene,
  { conceptNames: names }: SceneModel,
  size: number,
): NormalScene & { prompt: string; width: number; height: number } {
  const { width, height, prompt } = scene;
  const bare =
    prompt === undefined &&
    scene.embed === undefined &&
    scene.states === undefined &&
    scene.regions.length === 0 &&
    scene.promptRewrite === undefined;
  const regions = scene.regions;
  if (!bare || names.length < 2) {
    if (bare && names.length === 0) throw new UsageError('expected a prompt; give one with `prompt`');
    const sized = {
      ...scene,
      prompt: prompt ?? (bare ? `photo of a ${names[0]}` : ''),
      width: width ?? size,
      height: height ?? size,
    };
    if (scene.promptRewrite === undefined) return sized;
    const { promptRewrite, ...rest } = sized;
    const more = parseMixOfShowRegions(promptRewrite!, sized.width, sized.height).map((spec, i) =>
      sceneRegion(spec, `region ${i + 1} of "${excerpt(promptRewrite!)}"`),
    );
    return { ...rest, regions: [...regions, ...more] };
  }
  // A tenth of each share stays free between neighbours, and they keep to themselves: objects do not run together.
  const gap = 0.1 / names.length;
  const edge = (i: number, inwards: number): number =>
    i === 0 || i === names.length ? i / names.length : i / names.length + inwards;
  return {
    ...scene,
    prompt: '',
    isolate: scene.isolate ?? 1,
    width: width ?? size * names.length,
    height: height ?? size,
    regions: names.map((name, i) => ({
      prompt: `photo of a ${name}`,
      box: [edge(i, gap), 0, edge(i + 1, -gap), 1],
    })),
  };
}

/** A place as the sampler takes it: plain boxes stay boxes, everything else becomes a mask of the picture's size. */
async function drawShape(
  { box, polygon, mask, feather = 0 }: ScenePlace,
  width: number,
  height: number,
  notes: string[],
): Promise<RegionShape> {
  if (box !== undefined) {
    const pixels = box.some((edge) => edge > 1);
    const [left, top, right, bottom] = pixels
      ? [box[0] / width, box[1] / height, box[2] / width, box[3] / height]
      : box;
    const edges = { top, left, bottom, right };
    checkBox('region', edges);
    if (feather === 0) return { kind: 'box', box: edges };
    return { kind: 'mask', mask: feathered(boxMask(edges, width, height), feather) };
  }
  if (polygon !== undefined) {
    const pixels = polygon.flat().some((value) => value > 1);
    const corners = pixels ? polygon.map(([x, y]) => [x / width, y / height] as const) : polygon;
    return { kind: 'mask', mask: feathered(polygonMask(corners, width, height), feather) };
  }
  const size = await pictureSize(mask!);
  if (size.width !== width || size.height !== height) {
    notes.push(`${mask}: mask resized from ${size.width} × ${size.height} to ${width} × ${height}`);
  }
  const large = size.width * size.height > MAX_WHOLE_MASK;
  const picture = await readGrayPicture(mask!, large ? { width, height } : {});
  return { kind: 'mask', mask: feathered(pictureMask(picture, width, height), feather) };
}

async function regionStrengths(
  regions: SceneGuide['regions'],
  width: number,
  height: number,
  shapeOf: (place: ScenePlace) => Promise<RegionShape>,
): Promise<RegionStrength[]> {
  const entries =
    typeof regions === 'string'
      ? parseMixOfShowStrengths(regions, width, height).map((spec, i) =>
          sceneStrength(spec, `adapter strength ${i + 1} of "${excerpt(regions)}"`),
        )
      : (regions ?? []);
  const result: RegionStrength[] = [];
  for (const { strength, ...place } of entries) result.push({ shape: await shapeOf(place), strength });
  return result;
}

const SPACINGS: readonly string[] = ['leading', 'linspace', 'trailing'];

/** @throws {UsageError} for an unknown part */
function parseSchedule({ schedule = 'model' }: NormalScene): ScheduleOverrides {
  const parts = schedule.split('+').map((part) => part.trim());
  const unknown = parts.find((part) => part !== 'model' && part !== 'karras' && !SPACINGS.includes(part));
  if (unknown !== undefined) {
    throw new UsageError(`schedule: expected model, karras, leading, linspace or trailing, got "${unknown}"`);
  }
  const spacing = parts.find((part) => SPACINGS.includes(part));
  return {
    ...(parts.includes('karras') ? { useKarrasSigmas: true } : {}),
    timestepSpacing: spacing as TimestepSpacing,
  };
}
