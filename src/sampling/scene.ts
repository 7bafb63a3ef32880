/**
 * A scene: everything that a picture is drawn from, as a file or a command line says it. Paths, names and numbers
 * only; nothing is opened here.
 */

import { resolve as absolute, basename, parse } from 'node:path';
import { type EmbeddedPart, parseEmbedded } from '../deprojector/embed.ts';
import { excerpt } from '../formats/excerpt.ts';
import { defined } from '../settings.ts';
import { takeEmbedTags } from './embed-tags.ts';
import { takeLoraTags } from './lora-tags.ts';
import { parseRegion } from './region-text.ts';
import {
  type EmbeddedInPlace,
  type Scene,
  type ScenePlace,
  sceneRegion,
  type WrittenRegion,
} from './scene-schema.ts';

/** A region with its tags written out. */
export type SceneRegion = Omit<WrittenRegion, 'loras' | keyof EmbeddedInPlace> &
  EmbeddedInPlace & { readonly loras?: readonly WeightFile[] };
/** A file of deltas and how much of it. */
export interface WeightFile {
  readonly path: string;
  readonly unetStrength: number;
  readonly textEncoderStrength: number;
}

/** A scene with its short forms written out and every path absolute. */
export type NormalScene = Omit<
  Scene,
  'concepts' | 'loras' | 'promptLoras' | 'regions' | keyof EmbeddedInPlace
> &
  EmbeddedInPlace & {
    readonly concepts: readonly WeightFile[];
    readonly loras: readonly WeightFile[];
    readonly promptLoras?: readonly WeightFile[];
    readonly regions: readonly SceneRegion[];
  };

/** How far an initial picture goes back to noise unless the scene says it. */
export const DEFAULT_DENOISE = 0.75;

/**
 * Write out a scene's short forms.
 * @param resolve from a path as written to an absolute one. Default: as seen from the working folder
 * @throws {UsageError} for a region's short form that cannot be read
 */
export function normalScene(
  scene: Scene,
  resolve: (file: string) => string = (file) => absolute(file),
): NormalScene {
  const placed = <T extends ScenePlace>(entry: T): T =>
    entry.mask === undefined ? entry : { ...entry, mask: resolve(entry.mask) };
  const { base, baseConfig, fused, embeddings, init, guides, controls } = scene;
  const concepts = (scene.concepts ?? []).map((entry) => weightFile(entry, resolve));
  const loras = (scene.loras ?? []).map((entry) => weightFile(entry, resolve));
  const loaded = [...(scene.concepts ?? []), ...(scene.loras ?? [])].map(writtenPath);
  const calledIn = (text: string): { prompt: string; loras: WeightFile[] } => {
    const { prompt: rest, tags } = takeLoraTags(text);
    const own = tags.map(({ name: called, ...strengths }) => {
      const known = loaded.findIndex((file) => [file, basename(file), parse(file).name].includes(called));
      return { path: known < 0 ? resolve(called) : [...concepts, ...loras][known]!.path, ...strengths };
    });
    return { prompt: rest, loras: own };
  };
  const inPlace = (own: InPlace): Pick<SceneRegion, keyof InPlace> => {
    const [positive, negative] = [own.prompt ?? '', own.negative ?? ''].map(takeEmbedTags);
    const parts = (listed: InPlace['embed'], tags: readonly EmbeddedPart[]): EmbeddedPart[] | undefined =>
      listed === undefined && tags.length === 0
        ? undefined
        : [...(listed ?? []).map(embeddedPart), ...tags].map((part) =>
            'image' in part ? { ...part, image: resolve(part.image) } : part,
          );
    return defined({
      prompt: own.prompt === undefined ? undefined : positive!.prompt,
      negative: own.negative === undefined ? undefined : negative!.prompt,
      embed: parts(own.embed, positive!.parts),
      negativeEmbed: parts(own.negativeEmbed, negative!.parts),
      states: own.states === undefined ? undefined : resolve(own.states),
      negativeStates: own.negativeStates === undefined ? undefined : resolve(own.negativeStates),
    }) as Pick<SceneRegion, keyof InPlace>;
  };
  const context = calledIn(scene.prompt ?? '');
  const own = inPlace(scene.prompt === undefined ? scene : { ...scene, prompt: context.prompt });
  const promptLoras = [
    ...(scene.promptLoras ?? []).map((entry) => weightFile(entry, resolve)),
    ...context.loras,
  ];
  const { embed: _, negativeEmbed: __, ...rest } = scene;
  return {
    ...rest,
    ...own,
    ...(scene.deprojector === undefined ? {} : { deprojector: resolve(scene.deprojector) }),
    ...(scene.clip === undefined ? {} : { clip: resolve(scene.clip) }),
    ...(base === undefined ? {} : { base: resolve(base) }),
    ...(baseConfig === undefined ? {} : { baseConfig: resolve(baseConfig) }),
    ...(fused === undefined ? {} : { fused: resolve(fused) }),
    ...(embeddings === undefined ? {} : { embeddings: embeddings.map(resolve) }),
    ...(init === undefined ? {} : { init: { ...init, image: resolve(init.image) } }),
    ...(controls === undefined
      ? {}
      : {
          controls: controls.map((entry) => ({
            ...entry,
            model: resolve(entry.model),
            image: resolve(entry.image),
          })),
        }),
    ...(guides === undefined
      ? {}
      : {
          guides: guides.map((entry) => ({
            ...entry,
            adapter: resolve(entry.adapter),
            image: resolve(entry.image),
            ...(Array.isArray(entry.regions) ? { regions: entry.regions.map(placed) } : {}),
          })),
        }),
    concepts,
    loras,
    promptLoras: promptLoras.length > 0 ? promptLoras : undefined,
    ...(scene.regions === 'auto' ? { autoRegions: scene.autoRegions ?? {} } : {}),
    regions: (scene.regions === 'auto' ? [] : (scene.regions ?? [])).map((entry) => {
      const written: WrittenRegion =
        typeof entry === 'string' ? sceneRegion(parseRegion(entry), `region "${excerpt(entry)}"`) : entry;
      const called = calledIn(written.prompt);
      const own = [...(written.loras ?? []).map((file) => weightFile(file, resolve)), ...called.loras];
      const { embed: _, negativeEmbed: __, ...rest } = written;
      return placed({
        ...rest,
        ...inPlace({ ...written, prompt: called.prompt }),
        loras: own.length > 0 ? own : undefined,
      });
    }),
  };
}

/** What a scene or a region may have for a prompt. */
type InPlace = Partial<
  Pick<WrittenRegion, 'prompt' | 'negative' | 'embed' | 'negativeEmbed' | 'states' | 'negativeStates'>
>;

function embeddedPart(entry: NonNullable<InPlace['embed']>[number]): EmbeddedPart {
  if (typeof entry !== 'string') return { ...entry, weight: entry.weight ?? 1 };
  const { value, weight } = parseEmbedded(entry);
  return { text: value, weight };
}

const writtenPath = (entry: NonNullable<Scene['loras']>[number]): string =>
  typeof entry === 'string' ? entry : entry.path;

function weightFile(
  entry: NonNullable<Scene['concepts']>[number],
  resolve: (file: string) => string,
): WeightFile {
  if (typeof entry === 'string') return { path: resolve(entry), unetStrength: 1, textEncoderStrength: 1 };
  const both = entry.strength ?? 1;
  return {
    path: resolve(entry.path),
    unetStrength: entry.unetStrength ?? both,
    textEncoderStrength: entry.textEncoderStrength ?? both,
  };
}
