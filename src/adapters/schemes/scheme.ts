/**
 * What a naming scheme is: how its files are recognised and read, what they can hold, and how they are written. One object
 * a scheme, all in one table (index.ts): what one writes, the same one reads.
 */
import type { RawTensor } from '../../formats/raw-tensor.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import type { TorchValue } from '../../formats/torch-value.ts';
import type { Pace } from '../../pace.ts';
import type {
  AdapterComponent,
  AdapterLayer,
  AdapterModule,
  AdapterWord,
  Architecture,
  LoraLayer,
} from '../adapter.ts';
import type { CollectedLayers } from '../layer-parts.ts';

/** What a reader is told beside the file. */
export interface ReadContext {
  readonly architecture: Architecture;
  /** Network of a PEFT adapter, where its folder tells it. */
  readonly component?: AdapterComponent | null;
  /** PEFT: the adapter's configuration. Default: the file beside the weights. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Whether the file is part of an adapter whose family is not listed: names are then the file's own. Default: as they tell. */
  readonly unlisted?: boolean;
}

/** What a file in a scheme says. */
export interface Content extends Omit<CollectedLayers, 'layers'> {
  readonly layers: ReadonlyMap<string, AdapterLayer>;
  readonly words: readonly AdapterWord[];
}

/** Reads the files of a scheme, or of several that differ in spelling alone. */
export interface SchemeReader {
  /** What `Adapter.scheme` says. */
  readonly name: string;
  /** Names that the scheme has, for files that are of none: the nearest is named. */
  readonly examples: readonly string[];
  /** How many of a file's tensors are this scheme's; the reader with most reads it. 0: none of them. */
  readonly recognises: (file: TensorFile) => number;
  /** @throws {FormatError} on parts that are missing, doubled or of impossible shapes */
  readonly read: (file: TensorFile, context: ReadContext) => Content;
}

/** What is to be written. */
export interface OutputAdapter {
  readonly architecture: Architecture;
  readonly layers: readonly AdapterLayer[];
  readonly words: readonly AdapterWord[];
  /** Shown by model browsers. */
  readonly title: string;
  readonly mergedFrom?: readonly string[];
  /** Words that call it, for the header, where they are others than `words`: embeddings may lie in a file of their own. */
  readonly triggerWords?: readonly string[];
  /** Further header entries: recipe, the inputs' own metadata. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** One weight file before it is written. */
export interface EncodedFile {
  /** Below the target, where that is a folder; empty where the target is the file. */
  readonly place: string;
  readonly tensors: readonly RawTensor[];
  readonly header: Readonly<Record<string, string>>;
  /** PyTorch's form of the same tensors, where the target's name asks for it. */
  readonly torch?: TorchValue;
  /** Text files that lie in the same folder, by name. */
  readonly beside?: Readonly<Record<string, string>>;
  /** What it is meant to hold; the reader is asked before it is written. */
  readonly layers: readonly AdapterLayer[];
  readonly words: readonly AdapterWord[];
  readonly component?: AdapterComponent;
  readonly config?: Readonly<Record<string, unknown>>;
}

export interface EncodeContext {
  /** The file, or folder, that is written. */
  readonly target: string;
  readonly pace: Pace;
}

export interface Scheme {
  readonly name: string;
  readonly title: string;
  readonly reader: SchemeReader;
  /** Whether the target is a folder. */
  readonly folder: boolean;
  /**
   * What is stored of alphas: `each` layer's; `one` for all layers, since some readers take one for all; `none`. The rest is
   * folded into the factors.
   */
  readonly alpha: 'each' | 'one' | 'none';
  /** Whether layers other than plain LoRA stay what they are. */
  readonly anyKind: boolean;
  /** Which words fit: none, one vector per token, or one per cross-attention layer too. */
  readonly words: 'none' | 'tokens' | 'layers';
  /** Whether words may have vectors of the second text encoder. */
  readonly secondEncoder: boolean;
  /** What docs/formats.md says is lost, beyond that. */
  readonly loses: string;
  /** Why a layer cannot be held; `null` if it can. */
  readonly refuses: (layer: AdapterLayer, architecture: Architecture) => string | null;
  /** Name of a factor of a layer that is not refused; `null` for schemes that number their layers, or call them as their file does. */
  readonly key: FactorKey | null;
  /**
   * The files of an adapter, every layer and word of which the scheme holds.
   * @param stored its layers: plain LoRA, with scale 1 where `alpha` is `none`; as they are where `anyKind`
   */
  readonly encode: (
    output: OutputAdapter,
    stored: readonly AdapterLayer[],
    context: EncodeContext,
  ) => Promise<EncodedFile[]> | EncodedFile[];
}

/** Name of a factor in a scheme. */
export type FactorKey = (module: AdapterModule, part: 'up' | 'down', architecture: Architecture) => string;

/** Whether a layer is plain LoRA. */
export function isPlainLora(layer: AdapterLayer): layer is LoraLayer {
  return layer.kind === 'lora' && layer.mid === null && layer.doraScale === null;
}
