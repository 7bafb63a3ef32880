/** Latents to pictures and back, one picture at a time; large pictures in overlapping tiles. */
import type { Picture } from '../formats/picture.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import { type VaeConfig, vaeFactor } from '../models/vae/config.ts';
import { buildVaeDecoder } from '../models/vae/decoder.ts';
import { buildVaeEncoder } from '../models/vae/encoder.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import { LoadedGraphs } from '../runtime/loaded-graphs.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { toPicture, toPlanes } from './image-values.ts';

/** Pictures of more latent cells than this along one axis are decoded in tiles of this size. */
export const TILE_CELLS = 64;
/** Cells that neighbouring tiles share, blended linearly. */
const OVERLAP_CELLS = 16;

/** The autoencoder of a model, kept loaded. */
export class LatentCodec {
  readonly #vae: ModelPart<VaeConfig>;
  readonly #tileCells: number;
  /** The last used decoder. */
  readonly #decoder: LoadedGraphs;
  readonly #execution: ExecutionContext;

  constructor(
    vae: ModelPart<VaeConfig>,
    execution: ExecutionContext = executionContext(),
    tileCells = TILE_CELLS,
  ) {
    this.#vae = vae;
    this.#tileCells = tileCells;
    this.#execution = execution;
    this.#decoder = new LoadedGraphs(execution.runtime, 'every-step', { ...execution, most: 1 });
  }

  /** Latents [1, C, h, w] as the denoiser has them (scaled) to a picture. */
  async decode(latents: Tensor<Float32Array>): Promise<Picture> {
    const [, , height, width] = latents.shape as [number, number, number, number];
    const factor = vaeFactor(this.#vae.config);
    const planes =
      Math.max(height, width) > this.#tileCells
        ? await this.#decodeTiled(latents)
        : await this.#decodeWhole(latents);
    return toPicture(planes, height * factor, width * factor);
  }

  async #decodeWhole(latents: Tensor<Float32Array>): Promise<Float32Array> {
    const [batch, , latentHeight, latentWidth] = latents.shape as [number, number, number, number];
    const { config, weights } = this.#vae;
    const decoder = await this.#decoder.get(
      latents.shape.join(),
      () => buildVaeDecoder(weights, config, { batch, latentHeight, latentWidth }).graph,
    );
    const { scalingFactor } = config;
    const data = latents.data.map((value) => value / scalingFactor);
    const { image } = await decoder.run({ latents: float32(latents.shape, data) });
    return image!.data as Float32Array;
  }

  /**
   * Tiles overlap and are blended with weights that rise linearly from their inner edges, so that no edge shows.
   * Differs from decoding whole: norms and the middle's attention see one tile at a time.
   */
  async #decodeTiled(latents: Tensor<Float32Array>): Promise<Float32Array> {
    const [, channels, height, width] = latents.shape as [number, number, number, number];
    const factor = vaeFactor(this.#vae.config);
    const [outHeight, outWidth] = [height * factor, width * factor];
    const sum = new Float32Array(3 * outHeight * outWidth);
    const weight = new Float32Array(outHeight * outWidth);
    const tileHeight = Math.min(height, this.#tileCells);
    const tileWidth = Math.min(width, this.#tileCells);
    const overlap = Math.min(OVERLAP_CELLS, Math.floor(this.#tileCells / 2));
    for (const top of tileStarts(height, tileHeight, overlap)) {
      for (const left of tileStarts(width, tileWidth, overlap)) {
        const tile = float32([1, channels, tileHeight, tileWidth]);
        for (let c = 0; c < channels; c++) {
          for (let y = 0; y < tileHeight; y++) {
            const from = (c * height + top + y) * width + left;
            tile.data.set(latents.data.subarray(from, from + tileWidth), (c * tileHeight + y) * tileWidth);
          }
        }
        const planes = await this.#decodeWhole(tile);
        const [rows, cols] = [tileHeight * factor, tileWidth * factor];
        const down = ramp(rows, overlap * factor, top > 0, top + tileHeight < height);
        const across = ramp(cols, overlap * factor, left > 0, left + tileWidth < width);
        for (let y = 0; y < rows; y++) {
          for (let x = 0; x < cols; x++) {
            const at = (top * factor + y) * outWidth + left * factor + x;
            const share = down[y]! * across[x]!;
            weight[at]! += share;
            for (let c = 0; c < 3; c++) {
              sum[c * outHeight * outWidth + at]! += share * planes[(c * rows + y) * cols + x]!;
            }
          }
        }
      }
    }
    return sum.map((value, i) => value / weight[i % weight.length]!);
  }

  /**
   * A picture to latents, scaled as the denoiser wants them: (mean + std · noise) · scalingFactor.
   * @param noise standard normal, as many as there are latents
   * @returns [1, C, h, w]
   */
  async encode(picture: Picture, drawNoise: (count: number) => Float32Array): Promise<Tensor<Float32Array>> {
    const { config, weights } = this.#vae;
    const size = { batch: 1, imageHeight: picture.height, imageWidth: picture.width };
    // Used once a run: not kept.
    const session = await this.#execution.runtime.load(
      buildVaeEncoder(weights, config, size).graph,
      'once',
      this.#execution,
    );
    try {
      const { mean, logvar } = await session.run({ image: toPlanes(picture, true) });
      const [means, logs] = [mean!.data as Float32Array, logvar!.data as Float32Array];
      const noise = drawNoise(means.length);
      const latents = means.map((value, i) => {
        const deviation = Math.exp(0.5 * Math.min(20, Math.max(-30, logs[i]!)));
        return (value + deviation * noise[i]!) * config.scalingFactor;
      });
      return float32(mean!.shape, latents);
    } finally {
      await session.dispose();
    }
  }

  async dispose(): Promise<void> {
    await this.#decoder.dispose();
  }
}

/** First cells of tiles that cover `length` and overlap by `overlap` or more, evenly spread. */
export function tileStarts(length: number, tile: number, overlap: number): number[] {
  if (tile >= length) return [0];
  const count = Math.ceil((length - overlap) / (tile - overlap));
  return Array.from({ length: count }, (_, i) => Math.round((i * (length - tile)) / (count - 1)));
}

/** Weight of each row of a tile: rising over `overlap` rows at its inner edges, 1 elsewhere. */
export function ramp(length: number, overlap: number, before: boolean, after: boolean): Float32Array {
  return Float32Array.from({ length }, (_, i) => {
    const rise = before ? Math.min(1, (i + 0.5) / overlap) : 1;
    const fall = after ? Math.min(1, (length - i - 0.5) / overlap) : 1;
    return rise * fall;
  });
}
