/**
 * What drawing a scene needs in memory, before anything of it is allocated. Only the largest holders are counted, each by
 * what it holds at least, so that what is refused could not have been drawn.
 */
import { UsageError } from '../errors.ts';
import { availableMemory } from '../io/platform/machine.ts';
import type { ClipTokenizer } from '../models/clip/tokenizer.ts';
import type { UnetConfig } from '../models/unet/config.ts';
import { attentionPlaces } from '../models/unet/structure.ts';
import type { VaeConfig } from '../models/vae/config.ts';

export interface DrawingSize {
  /** Pixels. */
  readonly width: number;
  readonly height: number;
  /** Pixels per latent cell. */
  readonly factor: number;
  /** Rows of one pass of the UNet: pictures, twice with guidance. */
  readonly rows: number;
  /** Of all texts together, negative ones included, in whole windows. */
  readonly tokens: number;
  /** Masks as large as the picture, of regions and of adapters' strengths. */
  readonly masks: number;
  readonly unet: UnetConfig;
  readonly vae: VaeConfig;
}

const FLOAT_BYTES = 4;
/**
 * Activations of full size that are alive at once in the UNet: skips of the first level and the wide half of a
 * feed-forward layer. Measured at 512 × 512 on Stable Diffusion 1.5 it is about 170 in all.
 */
const UNET_ACTIVATIONS = 32;
/** The same for the decoder's last level. */
const DECODER_ACTIVATIONS = 3;

/** Bytes that drawing takes at least, beside the model's weights. */
export function memoryNeed(size: DrawingSize): number {
  const { width, height, factor, rows, tokens, masks, unet, vae } = size;
  const pixels = width * height;
  const cells = pixels / factor ** 2;
  const features = attentionPlaces(unet).length * tokens * unet.crossAttentionDim;
  const denoising = rows * cells * unet.blocks[0]!.channels * UNET_ACTIVATIONS;
  const decoding = pixels * vae.blockChannels[0]! * DECODER_ACTIVATIONS;
  return FLOAT_BYTES * (features + masks * pixels + Math.max(denoising, decoding));
}

/** A text or several that are encoded side by side, e.g. with the negative one: all get the length of the longest. */
export type TextGroup = readonly string[];

/** Tokens of groups of texts in whole windows, as `PromptEncoder` encodes them. */
export function windowedTokens(
  groups: readonly TextGroup[],
  tokenizer: ClipTokenizer,
  maxPositions: number,
): number {
  const windows = (text: string): number =>
    Math.max(1, Math.ceil((tokenizer.encode(text).length - 2) / (maxPositions - 2)));
  return groups.reduce(
    (sum, group) => sum + group.length * Math.max(...group.map(windows)) * maxPositions,
    0,
  );
}

/**
 * @param limit bytes. Default: the memory of this machine
 * @throws {UsageError} with both numbers, if drawing cannot fit
 */
export function checkMemory(size: DrawingSize, limit = availableMemory()): void {
  const need = memoryNeed(size);
  if (need <= limit) return;
  const { width, height, rows, tokens, masks } = size;
  throw new UsageError(
    `${width} × ${height}, ${rows} rows a pass, ${tokens} tokens, ${masks} masks: expected at most ${gigabytes(limit)} of memory, which this machine has, ` +
      `got a need of ${gigabytes(need)} or more; take a smaller picture, a smaller batch or fewer regions`,
  );
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
