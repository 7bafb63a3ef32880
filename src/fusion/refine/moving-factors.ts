/** The factors that a refinement moves: as a graph takes them, as layers, and where they began. */
import { NumericalError } from '../../errors.ts';
import { type LowRank, lowRank } from '../../linalg/low-rank.ts';
import { matrix } from '../../linalg/matrix.ts';
import type { Layer } from '../../models/families/layer-table.ts';
import { deltaFeeds, deltaRanks, type LayerDeltas } from '../../models/lora.ts';
import { loraDownInput, loraUpInput } from '../../models/network.ts';
import { type AdamWState, adamwState, adamwStep } from '../../optim/adamw.ts';
import type { Tensor } from '../../tensor/tensor.ts';

const ADAM = { betas: [0.9, 0.99], weightDecay: 0 } as const;

export class MovingFactors {
  /** Of all layers that the model changes. */
  readonly ranks: ReadonlyMap<string, number>;
  /** What a graph with these ranks takes. */
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** The inputs among them that move. */
  readonly trained: readonly string[];
  readonly #layers: readonly string[];
  readonly #states: ReadonlyMap<string, AdamWState>;
  readonly #began: ReadonlyMap<string, Float32Array>;
  /** Root mean square of all numbers that move, where they began. */
  readonly #magnitude: number;

  /**
   * @param start factors that move; both of a layer are of one size, as Adam moves every number by about as much
   * @param fixed changes of other layers, which stay
   * @param table the base's layers
   */
  constructor(start: LayerDeltas, fixed: LayerDeltas, table: ReadonlyMap<string, Layer>) {
    const deltas: LayerDeltas = new Map([...fixed, ...start]);
    this.ranks = deltaRanks(deltas);
    this.feeds = deltaFeeds(deltas, this.ranks, table);
    this.#layers = [...start.keys()];
    this.trained = this.#layers.flatMap((layer) => [loraDownInput(layer), loraUpInput(layer)]);
    this.#states = new Map(this.trained.map((name) => [name, adamwState(this.#numbers(name).length)]));
    this.#began = new Map(this.trained.map((name) => [name, this.#numbers(name).slice()]));
    this.#magnitude = rootMeanSquare([...this.#began.values()]);
  }

  /** One step of Adam. @param rate as a share of what moves */
  step(gradients: ReadonlyMap<string, Float32Array>, rate: number): void {
    for (const [name, state] of this.#states) {
      adamwStep(this.#numbers(name), gradients.get(name)!, state, rate * this.#magnitude, ADAM);
    }
  }

  /** Back from where the steps went, towards where they began. @param reach share of the way that stays */
  withdraw(reach: number): void {
    for (const [name, began] of this.#began) {
      const numbers = this.#numbers(name);
      for (const [i, from] of began.entries()) numbers[i] = from + reach * (numbers[i]! - from);
    }
  }

  /** The whole model as it is now. */
  model(): LayerDeltas {
    return this.#deltas(this.ranks.keys());
  }

  /** What moves, as it is now. @throws {NumericalError} naming a layer that is not finite */
  layers(): Map<string, LowRank> {
    const layers = this.#deltas(this.#layers);
    for (const [layer, { up, down }] of layers) {
      const bad = [...up.data, ...down.data].find((value) => !Number.isFinite(value));
      if (bad === undefined) continue;
      throw new NumericalError('refined factors are not finite; lower the learning rate', {
        layer,
        value: bad,
      });
    }
    return layers;
  }

  #deltas(layers: Iterable<string>): Map<string, LowRank> {
    const of = (name: string) => {
      const [rows, columns] = this.feeds[name]!.shape as [number, number];
      return matrix(rows, columns, Float64Array.from(this.#numbers(name)));
    };
    return new Map(
      [...layers].map((name) => [name, lowRank(of(loraUpInput(name)), of(loraDownInput(name)))]),
    );
  }

  #numbers(name: string): Float32Array {
    return this.feeds[name]!.data as Float32Array;
  }
}

function rootMeanSquare(parts: readonly Float32Array[]): number {
  let [squares, count] = [0, 0];
  for (const part of parts) {
    for (const value of part) squares += value * value;
    count += part.length;
  }
  return Math.sqrt(squares / Math.max(1, count));
}
