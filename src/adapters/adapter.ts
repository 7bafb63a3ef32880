/**
 * An adapter: any file that changes a model's weights layer by layer, as it stands on disk. LoRA is one kind of layer
 * among several; `delta.ts` turns all of them into the change itself. A `Concept` is what fusion and sampling
 * take; an `Adapter` is what files hold.
 */
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { AdapterModule, Architecture } from '../models/families/adapter-layers.ts';

export type { AdapterComponent, AdapterModule, Architecture } from '../models/families/adapter-layers.ts';

/** A · B, or a small core between two factors (Tucker): a and b are then stored transposed, [r, out] and [r, in]. */
export interface PairFactor {
  readonly a: RawTensor;
  readonly b: RawTensor;
  /** [r, r, kh, kw]; `null` without. */
  readonly core: RawTensor | null;
}

/** A whole matrix in place of a pair. */
export interface FullFactor {
  readonly full: RawTensor;
}

/** The tensors of a layer, by kind. The formulas stand in delta.ts. */
export type LayerWeights =
  | {
      readonly kind: 'lora';
      /** [m, r] or [m, r, 1, 1]. */
      readonly up: RawTensor;
      /** [r, n] or [r, n, kh, kw]; with `mid` [r, n, 1, 1]. */
      readonly down: RawTensor;
      /** Tucker core [r, r, kh, kw] of LyCORIS' LoCon. */
      readonly mid: RawTensor | null;
    }
  | { readonly kind: 'loha'; readonly w1: PairFactor; readonly w2: PairFactor }
  | {
      readonly kind: 'lokr';
      readonly w1: PairFactor | FullFactor;
      readonly w2: PairFactor | FullFactor;
    }
  /** (IA)³: outputs, or inputs, times 1 + weight. */
  | { readonly kind: 'ia3'; readonly weight: RawTensor; readonly onInput: boolean }
  /** The change itself, [m, n] or [m, n, kh, kw]. */
  | { readonly kind: 'diff'; readonly diff: RawTensor }
  /** The changed weight itself (Custom Diffusion). */
  | { readonly kind: 'weight'; readonly weight: RawTensor };

/** Sizes of a convolution's kernel, along as many axes as it has: [height, width], with time in front where there is time. */
export type Kernel = readonly number[];

/** How many numbers of a weight's row are of one input channel. */
export function kernelArea(kernel: Kernel | null): number {
  return kernel === null ? 1 : kernel.reduce((area, size) => area * size, 1);
}

export interface AdapterLayerInfo extends AdapterModule {
  /** What multiplies the product: loraAlpha / rank, √rank in its place for rank-stabilised files; 1 where none applies. */
  readonly scale: number;
  /** r of the factors; `null` for kinds without. */
  readonly rank: number | null;
  /** Of a convolution; `null` for a linear layer. */
  readonly kernel: Kernel | null;
  /** DoRA's magnitude: [m, 1, …] per output, [1, n, …] per input. */
  readonly doraScale: RawTensor | null;
  /** Change of the bias [m]. */
  readonly biasDiff: RawTensor | null;
}

export type AdapterLayer = LoraLayer | (AdapterLayerInfo & Exclude<LayerWeights, { kind: 'lora' }>);

/** A word's embedding. */
export interface AdapterWord {
  readonly word: string;
  /**
   * [n, D]. `layers`: row k serves cross-attention k. `tokens`: the word is n tokens in a row, each with one vector.
   */
  readonly embedding: RawTensor;
  readonly rows: 'layers' | 'tokens';
  /** SDXL's second text encoder has vectors of its own. */
  readonly encoder: 'text_encoder' | 'text_encoder_2';
}

/** A layer of plain LoRA, or of LoCon with its Tucker core. */
export type LoraLayer = AdapterLayerInfo &
  Extract<LayerWeights, { kind: 'lora' }> & {
    /** r of the factors. */
    readonly rank: number;
  };

export interface Adapter {
  /** Absolute path of the file, or of the folder. */
  readonly path: string;
  /** Absolute paths of every file that belongs to it. */
  readonly files: readonly string[];
  /** Name of the scheme that its keys are in, see schemes/. */
  readonly scheme: string;
  readonly architecture: Architecture;
  /** By `component:layerName`, in file order. */
  readonly layers: ReadonlyMap<string, AdapterLayer>;
  readonly words: readonly AdapterWord[];
  readonly metadata: ReadonlyMap<string, string>;
  /** Entries that are known but cannot be used, with the reason: left out only if the user says so. */
  readonly unusable: readonly { readonly name: string; readonly reason: string }[];
  /** Values of a PyTorch file that are no tensors, by name and kind. */
  readonly stray: readonly string[];
}
