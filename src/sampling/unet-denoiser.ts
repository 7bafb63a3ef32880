/** The UNet of a model kept loaded for sampling: one guided prediction per call, whatever the number of texts. */

import { rankOf } from '../linalg/low-rank.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { type Conditioning, joinedRows, stackedConditioning } from '../models/families/conditioning.ts';
import { within } from '../models/families/layer-table.ts';
import { deltaFeeds, deltaRanks, type LayerDeltas, type ModelDeltas, sumDeltas } from '../models/lora.ts';
import { type FactorPlaces, hasNoPlace } from '../models/unet/factor-places.ts';
import { buildKeysValues, isKeyOrValue, keysOutput, valuesOutput } from '../models/unet/keys-values.ts';
import { keyInput, type SourceLayout, valueInput } from '../models/unet/region-attention.ts';
import { crossAttentionNames } from '../models/unet/structure.ts';
import { textEmbedsInput, timeIdsInput } from '../models/unet/time-embedding.ts';
import { buildUnet } from '../models/unet/unet.ts';
import type { Listening } from '../models/unet/word-shares.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import { halvesAreWidenedInRuns } from '../runtime/half-weights.ts';
import type { LoadedGraph } from '../runtime/runtime.ts';
import { RepeatedFeeds, UploadedFeeds } from '../runtime/uploaded.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { alikeSources, type ConceptPlacement, type SourceStrengths } from './concept-places.ts';
import type { GuidedRows } from './guided-rows.ts';

type Feeds = Readonly<Record<string, Tensor>>;

/** One source, each of one row: negative first, or positive alone where there is no guidance. */
export type SourceContexts = readonly Conditioning[];

export interface UnetSetup {
  /** B: pictures of one pass, twice with guidance. */
  readonly rows: number;
  readonly latentHeight: number;
  readonly latentWidth: number;
  readonly layout: SourceLayout;
  /** Which concepts act everywhere, and which in parts of the picture. Default: all of them everywhere. */
  readonly placement?: ConceptPlacement;
  /** What is told of words. Default nothing. */
  readonly listening?: Listening | null;
  readonly adapterFeatures: boolean;
  readonly controlResiduals: boolean;
}

/** A UNet with deltas. One session is loaded at a time; it stays as long as the same setup is asked for. */
export class UnetDenoiser {
  readonly #base: Checkpoint;
  /** What acts everywhere. */
  readonly #own: SplitDeltas;
  readonly #concepts: readonly SplitDeltas[];
  readonly #execution: ExecutionContext;
  #loaded: {
    key: string;
    session: LoadedGraph;
    /** Shapes by name. */
    inputs: ReadonlyMap<string, readonly number[]>;
    /** How many runs make a pass, each of one row. */
    runs: number;
    factors: UploadedFeeds;
  } | null = null;
  /** Texts, masks and indices: the same from call to call. */
  readonly #repeated: RepeatedFeeds;

  /**
   * @param deltas   changes of the base everywhere; those of the UNet count
   * @param concepts changes that act where a setup places them. Default none
   */
  constructor(
    base: Checkpoint,
    deltas: ModelDeltas,
    execution: ExecutionContext = executionContext(),
    concepts: readonly ModelDeltas[] = [],
  ) {
    this.#base = base;
    this.#own = splitDeltas(deltas);
    this.#concepts = concepts.map(splitDeltas);
    this.#execution = execution;
    this.#repeated = new RepeatedFeeds(execution.runtime);
  }

  /**
   * What all sources say, as the UNet's inputs: K and V of all cross-attentions, and the pooled text and sizes where there are any.
   * @param rows      of a pass: each text is repeated for every picture
   * @param strengths of the concepts for each source. Default: all whole
   */
  async keysValues(
    sources: readonly SourceContexts[],
    rows: GuidedRows,
    strengths: SourceStrengths = this.#concepts.map(() => sources.map(() => 1)),
  ): Promise<Feeds> {
    const { weights, config, layers } = this.#base.parts.unet;
    const names = crossAttentionNames(config);
    const feeds: Record<string, Tensor> = {};
    sources.forEach((contexts, source) => {
      const { pooled, timeIds, timeIdsApart } = stackedConditioning(contexts);
      if (pooled !== undefined) feeds[textEmbedsInput(source)] = rows.spread(pooled);
      if (timeIdsApart !== undefined) feeds[timeIdsInput(source, true)] = rows.spread(timeIdsApart);
      if (timeIds !== undefined) feeds[timeIdsInput(source)] = rows.spread(timeIds);
    });
    const sets = [this.#own.text, ...this.#concepts.map(({ text }) => text)];
    // Texts of one length, read by the same concepts, share a run.
    const tokensOf = (source: number): number => sources[source]![0]!.context.shape[2]!;
    for (const group of alikeSources(strengths, sources.length, tokensOf)) {
      const members = group.sources.map((source) => ({ source, contexts: sources[source]! }));
      const tokens = tokensOf(group.sources[0]!);
      const deltas = sumDeltas(sets, [1, ...group.strengths]);
      const loraRanks = deltaRanks(deltas);
      const factors = deltaFeeds(deltas, loraRanks, layers);
      const texts = members.flatMap(({ contexts }) => contexts);
      const size = { batch: texts.length, tokens };
      const { graph } = buildKeysValues(weights, config, size, { loraRanks });
      const session = await this.#execution.runtime.load(graph, 'once', this.#execution);
      try {
        const { context } = stackedConditioning(texts);
        const outputs = await session.run({ encoder_hidden_states: context, ...factors });
        for (const name of names) {
          let at = 0;
          for (const { source, contexts } of members) {
            const range = [at, at + contexts.length] as const;
            feeds[keyInput(name, source)] = rows.spread(rowsOf(outputs[keysOutput(name)]!, range));
            feeds[valueInput(name, source)] = rows.spread(rowsOf(outputs[valuesOutput(name)]!, range));
            at += contexts.length;
          }
        }
      } finally {
        await session.dispose();
      }
    }
    return feeds;
  }

  /** Load the UNet for a setup; nothing happens if it is loaded already. */
  async load(setup: UnetSetup): Promise<void> {
    const { rows, latentHeight, latentWidth, layout, listening, adapterFeatures, controlResiduals } = setup;
    const lean = halvesAreWidenedInRuns();
    const key = setupKey(setup);
    if (this.#loaded?.key === key) return;
    await this.#unload();
    const { weights, config, layers } = this.#base.parts.unet;
    const { deltas, places } = this.#placed(setup.placement);
    const loraRanks = deltaRanks(deltas);
    // Row by row a pass takes as long, and half of the memory beside the weights. What is told of words is told of all rows.
    const runs = lean && !listening ? rows : 1;
    const size = { batch: rows / runs, latentHeight, latentWidth, tokens: layout.tokens[0]! };
    const options = { sources: layout, listening, places, adapterFeatures, controlResiduals, loraRanks };
    const { graph } = buildUnet(weights, config, size, options);
    const { runtime } = this.#execution;
    this.#loaded = {
      key,
      session: await runtime.load(graph, 'every-step', this.#execution),
      inputs: new Map(graph.inputs.map(({ name, shape }) => [name, shape])),
      runs,
      factors: new UploadedFeeds(runtime, deltaFeeds(deltas, loraRanks, layers)),
    };
  }

  /**
   * One pass of the loaded UNet.
   * @param feeds all its inputs but factors; what this setup has no input for is left out
   */
  async predict(feeds: Feeds): Promise<Float32Array> {
    return predictionOf(await this.run(feeds));
  }

  /** The same with everything that the network tells: `noise_pred`, and the outputs of word-shares.ts. */
  async run(feeds: Feeds): Promise<Feeds> {
    const { session, inputs, runs, factors } = this.#loaded!;
    const known = Object.entries(feeds).filter(([name]) => inputs.has(name));
    if (runs === 1) return session.run({ ...factors.feeds, ...this.#repeated.of(known) });
    const told: Feeds[] = [];
    for (let row = 0; row < runs; row++) {
      const own = known.map(([name, tensor]) => {
        const isOfRows = tensor.shape[0] !== inputs.get(name)![0];
        return [name, isOfRows ? rowsOf(tensor, [row, row + 1]) : tensor] as const;
      });
      told.push(await session.run({ ...factors.feeds, ...Object.fromEntries(own) }));
    }
    return Object.fromEntries(
      Object.keys(told[0]!).map((name) => [
        name,
        joinedRows(told.map((each) => each[name] as Tensor<Float32Array>)),
      ]),
    );
  }

  /** The factors of all that acts, side by side, and the masks that they stand under. */
  #placed(
    { everywhere, placed }: ConceptPlacement = { everywhere: this.#concepts.map(() => 1), placed: [] },
  ): {
    deltas: LayerDeltas;
    places: FactorPlaces | null;
  } {
    const concepts = this.#concepts.map(({ unet }) => unet);
    const common = sumDeltas([this.#own.unet, ...concepts], [1, ...everywhere]);
    if (placed.length === 0) return { deltas: common, places: null };
    const masked = placed.map(
      (concept) => new Map([...concepts[concept]!].filter(([name]) => !hasNoPlace(name))),
    );
    const sets = [common, ...masked];
    const deltas = sumDeltas(sets);
    const columns = [...deltas.keys()].map((name) => {
      const masks = sets.flatMap((own, mask) => {
        const delta = own.get(name);
        return delta === undefined ? [] : Array<number>(rankOf(delta)).fill(mask);
      });
      return [name, masks] as const;
    });
    return { deltas, places: { masks: sets.length, columns: new Map(columns) } };
  }

  async #unload(): Promise<void> {
    this.#loaded?.factors.dispose();
    await this.#loaded?.session.dispose();
    this.#loaded = null;
  }

  async dispose(): Promise<void> {
    this.#repeated.dispose();
    await this.#unload();
  }
}

/** Setups of one key share a loaded network. */
export function setupKey(setup: UnetSetup): string {
  const { listening } = setup;
  const lean = halvesAreWidenedInRuns();
  return JSON.stringify({ ...setup, lean, listening: listening && [...listening.layers, listening] });
}

/** Of what a run of the UNet gives, [B, C, h, w]. */
export function predictionOf({ noise_pred }: Feeds): Float32Array {
  return noise_pred!.data as Float32Array;
}

/** K and V are computed apart from the UNet, so their deltas are applied there. */
interface SplitDeltas {
  readonly unet: LayerDeltas;
  readonly text: LayerDeltas;
}

function splitDeltas(deltas: ModelDeltas): SplitDeltas {
  const all = [...within('unet', deltas)];
  return {
    unet: new Map(all.filter(([name]) => !isKeyOrValue(name))),
    text: new Map(all.filter(([name]) => isKeyOrValue(name))),
  };
}

/** Rows [from, to) of the first axis. */
function rowsOf({ shape, data }: Tensor, [from, to]: readonly [number, number]): Tensor<Float32Array> {
  const size = data.length / shape[0]!;
  const own = (data as Float32Array).subarray(from * size, to * size);
  return float32([to - from, ...shape.slice(1)], own);
}
