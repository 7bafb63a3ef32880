/** Pictures whose regions find their places: each by itself, since its places are its own. */
import type { Checkpoint } from '../../models/checkpoint.ts';
import { joinedRows } from '../../models/families/conditioning.ts';
import { attentionPlaces, crossAttentionNames, levelSizes } from '../../models/unet/structure.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { CombinedModel } from '../combined-model.ts';
import type { DenoisingRun, OnStep } from '../denoising-run.ts';
import { GuidedRows } from '../guided-rows.ts';
import type { RegionShape } from '../region.ts';
import type { ResolvedRequest } from '../request.ts';
import { WordListener } from '../word-listening.ts';
import { type AutoRegions, autoCalls } from './auto-regions.ts';
import { type FoundPlace, FoundPlaces } from './found-places.ts';
import type { MapSize } from './map-numbers.ts';
import { PLACE_FINDERS } from './place-finder.ts';

export interface FindingRequest {
  readonly base: Checkpoint;
  readonly request: ResolvedRequest;
  readonly auto: AutoRegions;
  /** Sources: the surroundings, the regions, the whole prompt. */
  readonly model: CombinedModel;
  /** Of the regions' words in the whole prompt, [region][layer][position]. */
  readonly positions: readonly (readonly (readonly number[])[])[];
  /** Pixels per latent cell. */
  readonly factor: number;
  /** What a region is told of its size while it keeps to itself, for each row of a picture; undefined where nothing is read of it. */
  readonly toldSizes: (shape: RegionShape) => readonly (Tensor<Float32Array> | undefined)[];
}

export interface FoundPicture {
  /** [1, C, h, w] */
  readonly latents: Tensor<Float32Array>;
  /** Where the regions were drawn at last. */
  readonly found: readonly FoundPlace[];
}

/** Draws the picture of an index. */
export function findingRun(
  run: DenoisingRun,
  { base, request, auto, model, positions, factor, toldSizes }: FindingRequest,
): (index: number, onStep: OnStep) => Promise<FoundPicture> {
  const { config } = base.parts.unet;
  const { finder = 'soft', restart = true, regions } = auto;
  const levels = levelSizes(config, request.height / factor, request.width / factor);
  const tokens = model.sources.map((contexts) => contexts[0]!.context.shape[2]!);
  const rows = new GuidedRows(1, { scale: request.guidanceScale });
  const told = tellingLevels(
    levels,
    attentionPlaces(config).map(({ level }) => level),
  );
  const listener = new WordListener(config, told, positions, tokens.at(-1)!, rows);
  const { looking, stillFrom, isolated } = autoCalls(auto, run.calls, request.isolate);
  return async (index, onStep) => {
    const places = new FoundPlaces({
      finder: PLACE_FINDERS[finder],
      words: regions.length,
      levels,
      tokens,
      strengths: model.strengths,
      listener,
      attentions: crossAttentionNames(config),
      lookingCalls: looking,
      stillFrom,
      isolatedCalls: isolated,
      toldSizes: (shape) => {
        const own = toldSizes(shape).filter((sizes) => sizes !== undefined);
        return own.length === 0 ? undefined : rows.spread(joinedRows(own));
      },
    });
    let before = 0;
    if (restart) {
      const calls = looking + run.calls;
      await run.denoise([index], places, (step) => onStep({ ...step, calls }), looking);
      places.restart();
      before = looking;
    }
    const calls = before + run.calls;
    const [latents] = await run.denoise([index], places, (step) =>
      onStep({ ...step, done: before + step.done, calls }),
    );
    return { latents: latents!, found: places.found };
  };
}

/** Levels that know where things are: their shorter side has 4 to 32 cells; the coarsest where none has. */
function tellingLevels(levels: readonly MapSize[], attending: readonly number[]): number[] {
  const own = [...new Set(attending)].sort();
  const telling = own.filter((level) => {
    const side = Math.min(levels[level]!.height, levels[level]!.width);
    return side >= 4 && side <= 32;
  });
  return telling.length > 0 ? telling : own.slice(-1);
}
