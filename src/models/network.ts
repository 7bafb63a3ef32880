/**
 * What a network is written with: a graph, the weights of one component under their diffusers names, and the
 * two things every linear layer may be asked for from outside: low-rank factors as runtime inputs, and probes.
 */
import { MismatchError, MissingWeightError, ShapeError } from '../errors.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { gramOfRows } from '../graph/gram-of-rows.ts';
import type { Graph } from '../graph/graph.ts';
import { conv } from '../graph/ops/convolution.ts';
import { reshape } from '../graph/ops/movement.ts';
import { groupNorm } from '../graph/ops/normalization.ts';
import type { Value } from '../graph/value.ts';

/** The weights of one component (UNet, text encoder, VAE) by diffusers' parameter names. */
export interface WeightSource {
  /** File or folder, for messages. */
  readonly label: string;
  /**
   * The tensor of this name, or undefined.
   * @param expected the shape the network wants, where it is known; sources that make weights up go by it
   */
  get(paramName: string, expected?: readonly number[]): RawTensor | undefined;
}

/** Which numbers of a layer's input or output a run returns besides its result. */
export interface ProbeRequest {
  /** Layers whose input rows X [N, n] are returned as they are. */
  readonly inputs?: Iterable<string>;
  /** Layers whose output rows [N, m], bias included, are returned. */
  readonly outputs?: Iterable<string>;
  /**
   * Layers of whose input all that sums need is returned: XᵀX, computed inside the graph in float64, as float32 would lose
   * the smaller eigenvalues; or X itself. Layers that share an input share one output.
   */
  readonly features?: Iterable<string>;
  /** Whether X [N, n] is returned in place of XᵀX. Default: never. */
  readonly keepRows?: (rows: number, width: number) => boolean;
  /**
   * What X is before that, given rows [N, n], batch after batch; default: as it is. A padding mask, for example,
   * multiplies rows by 0 or 1.
   */
  readonly weighRows?: (g: GraphBuilder, rows: Value) => Value;
}

export interface NetworkOptions {
  /** Layers that get factors as inputs: layer name → rank. All other layers run the base weight alone. */
  readonly loraRanks?: ReadonlyMap<string, number>;
  readonly probes?: ProbeRequest;
  /** Writes group norms in place of the operator. Default: the operator. */
  readonly groupNorm?: GroupNormWriter;
  /** Writes convolutions in place of the operator. Default: the operator. */
  readonly conv?: ConvWriter;
  /** How much each factor of a layer counts in each row. Default: all count whole everywhere. */
  readonly factorWeights?: FactorWeights;
}

/**
 * What x · downᵀ [B, N, r] of a layer is multiplied by before `up`: [1, N, r], or null where all is 1.
 * @param rows N
 */
export type FactorWeights = (g: GraphBuilder, layerName: string, rows: number) => Value | null;

/** A group norm of x [B, C, H, W] with weight and bias [C]. */
export type GroupNormWriter = (
  g: GraphBuilder,
  x: Value,
  weight: Value,
  bias: Value,
  options: { readonly groups: number; readonly epsilon: number },
) => Value;

export interface ConvOptions {
  readonly stride: number;
  /** Of all sides, or top, left, bottom, right. */
  readonly pads: number | readonly [number, number, number, number];
}

/** A convolution of x [B, C, H, W] with weight [M, C, k, k] and bias [M]. */
export type ConvWriter = (
  g: GraphBuilder,
  x: Value,
  weight: Value,
  bias: Value | null,
  options: ConvOptions,
) => Value;

/** Output names of the probes of a finished network, by layer name. */
export interface Probes {
  readonly inputs: ReadonlyMap<string, string>;
  readonly outputs: ReadonlyMap<string, string>;
  readonly features: ReadonlyMap<string, FeatureProbe>;
}

/** What a run returns of an input. */
export interface FeatureProbe {
  /** The first layer that reads the input; layers with one input have one probe. */
  readonly input: string;
  /** Name of the graph's output. */
  readonly output: string;
  /** `gram`: strips of XᵀX (`gramStrips`) one after the other, float64; `rows`: X [N, n], float32. */
  readonly form: 'gram' | 'rows';
  /** N of one run. */
  readonly rows: number;
  /** n. */
  readonly width: number;
}

export interface Network {
  readonly graph: Graph;
  readonly probes: Probes;
}

/** Graph input of a layer's down factor, [r, n]. */
export const loraDownInput = (layerName: string): string => `${layerName}.lora_down`;
/** Graph input of a layer's up factor, [m, r]; strength and scale are already multiplied in. */
export const loraUpInput = (layerName: string): string => `${layerName}.lora_up`;

export class NetworkBuilder {
  readonly g = new GraphBuilder();
  readonly writeGroupNorm: GroupNormWriter;
  readonly writeConv: ConvWriter;
  readonly #source: WeightSource;
  readonly #loraRanks: ReadonlyMap<string, number>;
  readonly #factorWeights: FactorWeights;
  readonly #wanted: { inputs: Set<string>; outputs: Set<string>; features: Set<string> };
  readonly #probes: Pick<ProbeRequest, 'keepRows' | 'weighRows'>;
  readonly #found = {
    inputs: new Map<string, string>(),
    outputs: new Map<string, string>(),
    features: new Map<string, FeatureProbe>(),
  };
  readonly #featuresOf = new Map<Value, FeatureProbe>();
  readonly #adapted = new Set<string>();
  #path = '';

  constructor(
    source: WeightSource,
    {
      loraRanks = new Map(),
      probes = {},
      groupNorm: writeGroupNorm = groupNorm,
      conv: writeConv = conv,
      factorWeights = () => null,
    }: NetworkOptions = {},
  ) {
    this.writeGroupNorm = writeGroupNorm;
    this.writeConv = writeConv;
    this.#source = source;
    this.#loraRanks = loraRanks;
    this.#factorWeights = factorWeights;
    this.#wanted = {
      inputs: new Set(probes.inputs),
      outputs: new Set(probes.outputs),
      features: new Set(probes.features),
    };
    this.#probes = probes;
  }

  /** Dotted path of the scope being written, e.g. `down_blocks.0.resnets.1`. */
  get path(): string {
    return this.#path;
  }

  /** Everything in `write` reads weights below `name` and is named under it. */
  within<T>(name: string, write: () => T): T {
    const outer = this.#path;
    this.#path = outer === '' ? name : `${outer}.${name}`;
    try {
      return this.g.scope(name, write);
    } finally {
      this.#path = outer;
    }
  }

  /** Does the checkpoint hold this parameter of the current scope? */
  has(paramName: string): boolean {
    return this.#source.get(this.#full(paramName)) !== undefined;
  }

  /**
   * A parameter of the current scope.
   * @param shape what the network expects; axes of size one at the end may be missing or surplus in the file
   *              (1×1 convolutions stored as matrices and the reverse)
   * @throws {MissingWeightError} if it is not there; {ShapeError} if it has another shape
   */
  weight(paramName: string, shape: readonly number[]): Value {
    const name = this.#full(paramName);
    const raw = this.#source.get(name, shape);
    if (raw === undefined) {
      throw new MissingWeightError(
        this.#source.label,
        `no weight "${name}"; expected [${shape.join(', ')}]`,
        {
          tensor: name,
        },
      );
    }
    if (trimOnes(raw.shape).join() !== trimOnes(shape).join()) {
      throw new ShapeError(
        `${this.#source.label}: ${name}: expected [${shape.join(', ')}], got [${raw.shape.join(', ')}]`,
      );
    }
    return this.g.weight(raw, shape);
  }

  /**
   * The factors asked for on layer `name` of the current scope, as graph inputs; null if none were.
   * @param m output features, @param n input features; of a convolution times the kernel's area
   */
  lora(name: string, m: number, n: number): { down: Value; up: Value } | null {
    const layerName = this.#full(name);
    const rank = this.#loraRanks.get(layerName);
    if (rank === undefined) return null;
    this.#adapted.add(layerName);
    return {
      down: this.g.input(loraDownInput(layerName), 'float32', [rank, n]),
      up: this.g.input(loraUpInput(layerName), 'float32', [m, rank]),
    };
  }

  /** How much each factor of layer `name` of the current scope counts in each of N rows, [1, N, r]; null: whole. */
  factorWeights(name: string, rows: number): Value | null {
    return this.#factorWeights(this.g, this.#full(name), rows);
  }

  /** Serve the probes of layer `name` on its input: `rows()` is X, [N, n] or [B, T, n], written only if wanted. */
  probeInput(name: string, x: Value, rows: () => Value = () => x): void {
    const layerName = this.#full(name);
    if (this.#wanted.inputs.has(layerName)) this.#emit('inputs', layerName, this.#flat(rows()));
    if (!this.#wanted.features.has(layerName)) return;
    let probe = this.#featuresOf.get(x);
    if (probe === undefined) {
      probe = this.#featureProbe(layerName, this.#flat(rows()));
      this.#featuresOf.set(x, probe);
    }
    this.#found.features.set(layerName, probe);
  }

  /** Serve the probes of layer `name` on its output rows. */
  probeOutput(name: string, rows: () => Value): void {
    const layerName = this.#full(name);
    if (this.#wanted.outputs.has(layerName)) this.#emit('outputs', layerName, this.#flat(rows()));
  }

  /** @throws {MismatchError} listing layers that factors or probes were asked for and that do not exist. */
  finish(): Network {
    const missing = [
      ...[...this.#loraRanks.keys()].filter((name) => !this.#adapted.has(name)),
      ...(['inputs', 'outputs', 'features'] as const).flatMap((kind) =>
        [...this.#wanted[kind]].filter((name) => !this.#found[kind].has(name)),
      ),
    ];
    if (missing.length > 0) {
      const shown = missing.slice(0, 5).join(', ');
      throw new MismatchError(
        `${this.#source.label}: ${missing.length} layers asked for are not linear layers of this network: ` +
          `${shown}${missing.length > 5 ? ', …' : ''}`,
      );
    }
    return { graph: this.g.finish(), probes: this.#found };
  }

  #emit(kind: 'inputs' | 'outputs', layerName: string, value: Value): void {
    const output = `${kind}:${layerName}`;
    this.g.output(output, value);
    this.#found[kind].set(layerName, output);
  }

  #featureProbe(input: string, flat: Value): FeatureProbe {
    const { keepRows, weighRows } = this.#probes;
    const weighed = weighRows?.(this.g, flat) ?? flat;
    const [rows, width] = weighed.shape as [number, number];
    const form = keepRows?.(rows, width) ? 'rows' : 'gram';
    const output = `${form}:${input}`;
    if (form === 'rows') {
      this.g.output(output, weighed);
    } else {
      this.g.output(output, gramOfRows(this.g, weighed));
    }
    return { input, output, form, rows, width };
  }

  #flat(rows: Value): Value {
    const n = rows.shape.at(-1)!;
    return rows.shape.length === 2
      ? rows
      : reshape(this.g, rows, [rows.shape.slice(0, -1).reduce((a, b) => a * b, 1), n]);
  }

  #full(name: string): string {
    return this.#path === '' ? name : `${this.#path}.${name}`;
  }
}

function trimOnes(shape: readonly number[]): readonly number[] {
  let end = shape.length;
  while (end > 1 && shape[end - 1] === 1) end--;
  return shape.slice(0, end);
}
