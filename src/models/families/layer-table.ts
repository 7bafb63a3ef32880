/**
 * The layers of a base that can be changed, each under one id. What a layer is called, how large it is and what it reads
 * follows from the configuration, here and nowhere else.
 */

/** A network of a base, named as its folder in diffusers' layout: `unet`, `text_encoder`, … */
export type ComponentId = string;

/** `component:layerName`: one name per layer of a base. */
export type LayerId = `${ComponentId}:${string}`;

/** What a layer does in its network. */
export type LayerRole =
  /** Queries, keys, values and output of an attention of a sequence to itself. */
  | 'self-attention'
  /** Queries and output of an attention to the text. */
  | 'cross-attention'
  /** Keys and values of an attention to the text: what reads the text features. */
  | 'context'
  | 'feed-forward'
  /** Into and out of a spatial transformer; a text encoder's last. */
  | 'projection'
  /** The timestep: its embedding, what is added to it, and what residual blocks make of it. */
  | 'time'
  /** Convolutions of residual blocks. */
  | 'resnet'
  /** Convolutions between resolutions. */
  | 'resampling'
  /** First and last convolution. */
  | 'edge';

/** One linear or convolution layer. Its change is ΔW [m, n]. */
export interface Layer {
  readonly id: LayerId;
  readonly component: ComponentId;
  /** Dotted diffusers path without `.weight`; text encoder paths start with `text_model.`. */
  readonly layerName: string;
  /** Outputs. */
  readonly m: number;
  /** Inputs, of a convolution times the kernel's area. */
  readonly n: number;
  /** Of the weight; `null` for a linear layer. */
  readonly kernel: readonly [height: number, width: number] | null;
  readonly role: LayerRole;
  /** Of keys and values that read the text: which of the per-layer contexts; `null` for all others. */
  readonly contextIndex: number | null;
}

export function layerId(component: ComponentId, layerName: string): LayerId {
  return `${component}:${layerName}`;
}

/** Makes layers of one component: a row of its table from what differs. */
export function layerOf(
  component: ComponentId,
  layerName: string,
  [m, n]: readonly [m: number, n: number],
  role: LayerRole,
  { kernel = null, contextIndex = null }: Partial<Pick<Layer, 'kernel' | 'contextIndex'>> = {},
): Layer {
  return { id: layerId(component, layerName), component, layerName, m, n, kernel, role, contextIndex };
}

/** What of one network is in a map over a base's layers, by layer name. */
export function within<T>(component: ComponentId, all: ReadonlyMap<LayerId, T>): Map<string, T> {
  const prefix = layerId(component, '');
  return new Map(
    [...all].flatMap(([id, value]) => (id.startsWith(prefix) ? [[id.slice(prefix.length), value]] : [])),
  );
}

/** A map over one network's layers, by the ids that they have in the base. */
export function outside<T>(component: ComponentId, own: ReadonlyMap<string, T>): Map<LayerId, T> {
  return new Map([...own].map(([layerName, value]) => [layerId(component, layerName), value]));
}

/** Whether a layer works on single rows, as fusion takes them: linear ones, and 1×1 convolutions. */
export function isLinear({ kernel }: Layer): boolean {
  return kernel === null || kernel[0] * kernel[1] === 1;
}

/** All layers of a base, in declared order: text encoders first, of each network the linear layers first. */
export class LayerTable implements Iterable<Layer> {
  /** Attentions to the text: as many contexts a prompt can have, and rows a concept word's embedding. */
  readonly contextCount: number;
  readonly #byId: ReadonlyMap<string, Layer>;

  constructor(layers: Iterable<Layer>) {
    this.#byId = new Map([...layers].map((layer) => [layer.id, layer]));
    this.contextCount = new Set([...this].flatMap(({ contextIndex }) => contextIndex ?? [])).size;
  }

  get(id: string): Layer | undefined {
    return this.#byId.get(id);
  }

  [Symbol.iterator](): Iterator<Layer> {
    return this.#byId.values();
  }

  /** Linear layers and 1×1 convolutions. */
  linear(): Layer[] {
    return [...this].filter(isLinear);
  }
}
