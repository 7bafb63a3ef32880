/** Training pictures as what the autoencoder makes of them, computed once before the first step. */
import { readPicture } from '../../formats/picture.ts';
import type { ModelPart } from '../../models/checkpoint.ts';
import type { PictureSizes } from '../../models/families/conditioning.ts';
import { type VaeConfig, vaeFactor } from '../../models/vae/config.ts';
import { buildVaeEncoder } from '../../models/vae/encoder.ts';
import { type ExecutionContext, executionContext } from '../../runtime/execution-context.ts';
import { LoadedGraphs } from '../../runtime/loaded-graphs.ts';
import type { LoadedGraph } from '../../runtime/runtime.ts';
import { toPlanes } from '../../sampling/image-values.ts';
import type { TorchGenerator } from '../../tensor/random.ts';
import type { TrainingPicture } from './training-folder.ts';
import {
  coveringSize,
  cut,
  latentMask,
  mirrored,
  resizedMask,
  type Size,
  shifted,
  trainedSize,
  type View,
} from './variants.ts';

/** One view of a picture, ready to be noised. */
export interface TrainingItem {
  /** Index of the picture in its folder. */
  readonly picture: number;
  readonly caption: string;
  readonly latentHeight: number;
  readonly latentWidth: number;
  /** Of the latents' distribution, [C, h, w], scaled as the denoiser wants them. */
  readonly mean: Float32Array;
  readonly deviation: Float32Array;
  /** [h, w] of zeros and ones; null: everywhere. */
  readonly mask: Float32Array | null;
  /** For UNets that read them. */
  readonly sizes: PictureSizes;
}

export interface ViewOptions {
  /** Pixels. */
  readonly resolution: number;
  readonly buckets: boolean;
  readonly flip: boolean;
  readonly crops: number;
  readonly shifts: number;
  readonly cropMode: 'random' | 'centre';
}

/** Cells of the smallest side a bucket may have more: sizes are multiples of 8 cells. */
const BUCKET_CELLS = 8;

/**
 * All views of all pictures.
 * @param execution progress: pictures done
 * @throws {FormatError} if a picture cannot be decoded
 */
export async function encodePictures(
  vae: ModelPart<VaeConfig>,
  pictures: readonly TrainingPicture[],
  options: ViewOptions,
  random: TorchGenerator,
  execution: ExecutionContext<number> = executionContext(),
): Promise<TrainingItem[]> {
  const factor = vaeFactor(vae.config);
  const encoders = new LoadedGraphs(execution.runtime, 'once', execution);
  const items: TrainingItem[] = [];
  try {
    for (const [index, picture] of pictures.entries()) {
      const unit = options.buckets ? BUCKET_CELLS * factor : factor;
      const target = trainedSize(picture, options.resolution, unit, options.buckets);
      for (const view of await viewsOf(picture, target, options, random)) {
        const encoder = await encoderOf(encoders, vae, target);
        items.push({
          picture: index,
          caption: picture.caption,
          sizes: {
            ...target,
            originalSize: { width: picture.width, height: picture.height },
            ...(view.crop === undefined ? {} : { crop: view.crop }),
          },
          ...(await encode(encoder, view, vae.config, factor)),
        });
      }
      execution.signal?.throwIfAborted();
      execution.progress?.(index + 1);
    }
  } finally {
    await encoders.dispose();
  }
  return items;
}

async function viewsOf(
  picture: TrainingPicture,
  target: Size,
  { flip, crops, shifts, cropMode }: ViewOptions,
  random: TorchGenerator,
): Promise<View[]> {
  const covering = coveringSize(picture, target);
  const same = covering.width === picture.width && covering.height === picture.height;
  const whole: View = {
    picture: await readPicture(picture.file, same ? {} : covering),
    mask: picture.mask === null ? null : resizedMask(picture.mask, covering),
  };
  const [slackX, slackY] = [covering.width - target.width, covering.height - target.height];
  const cropped = Array.from({ length: slackX + slackY === 0 ? 1 : crops }, (): View => {
    const [x, y] =
      cropMode === 'centre'
        ? [Math.floor(slackX / 2), Math.floor(slackY / 2)]
        : [random.randint(0, slackX + 1, 1)[0]!, random.randint(0, slackY + 1, 1)[0]!];
    return { ...cut(whole, y, x, target), crop: { left: x, top: y } };
  });
  // A crop may miss the masked object: then it counts everywhere, or the loss would have nothing to look at.
  const views = cropped.map((view) =>
    view.mask?.some((value) => value > 127) ? view : { ...view, mask: null },
  );
  const moved = views.flatMap((view) => [
    view,
    ...Array.from({ length: shifts }, () => ({ ...view, ...shifted(view, random) })),
  ]);
  return flip ? moved.flatMap((view) => [view, { ...view, ...mirrored(view) }]) : moved;
}

function encoderOf(
  encoders: LoadedGraphs,
  { weights, config }: ModelPart<VaeConfig>,
  { width, height }: Size,
): Promise<LoadedGraph> {
  return encoders.get(
    `${width}×${height}`,
    () => buildVaeEncoder(weights, config, { batch: 1, imageHeight: height, imageWidth: width }).graph,
  );
}

async function encode(
  encoder: LoadedGraph,
  { picture, mask }: View,
  { scalingFactor }: VaeConfig,
  factor: number,
): Promise<Pick<TrainingItem, 'latentHeight' | 'latentWidth' | 'mean' | 'deviation' | 'mask'>> {
  const { mean, logvar } = await encoder.run({ image: toPlanes(picture, true) });
  const [, , latentHeight, latentWidth] = mean!.shape as [number, number, number, number];
  return {
    latentHeight,
    latentWidth,
    mean: (mean!.data as Float32Array).map((value) => value * scalingFactor),
    deviation: (logvar!.data as Float32Array).map(
      (value) => Math.exp(0.5 * Math.min(20, Math.max(-30, value))) * scalingFactor,
    ),
    mask: mask === null ? null : latentMask(mask, picture, factor),
  };
}
