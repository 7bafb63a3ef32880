/**
 * A network of which one part at a time is in memory, weights and all: each is loaded when its turn comes, and freed when it
 * has run. That is for weights that stay as they lie in their file, where loading costs little (half-weights.ts); a small
 * network, or one whose weights are widened when it is loaded, is one part, which stays loaded.
 */
import type { Graph } from '../graph/graph.ts';
import { type GraphPart, passedOutput, splitGraph, weightBytes } from '../graph/split.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { checkFeeds } from './check-feeds.ts';
import type { ExecutionContext } from './execution-context.ts';
import { halvesAreWidenedInRuns } from './half-weights.ts';
import type { Feeds, LoadedGraph } from './runtime.ts';

/** Weights of one part, about. Of Stable Diffusion 1.5 all are 1.7 GB in half width, of SDXL 5.1. */
const PART_BYTES = 2e9;

/** What becomes of an output; called as soon as the part that makes it has run. */
export type TakeOutput = (name: string, tensor: Tensor) => void | Promise<void>;

export interface GraphInPartsOptions {
  /** Weights of one part, about. Default 2 GB where weights stay as they lie in their file; all where they do not. */
  readonly partBytes?: number;
}

/** Dispose it when done. */
export class GraphInParts {
  readonly #graph: Graph;
  readonly #parts: readonly GraphPart[];
  readonly #execution: ExecutionContext;
  /** The only part there is. */
  #only: LoadedGraph | null = null;

  constructor(
    graph: Graph,
    execution: ExecutionContext,
    {
      partBytes = halvesAreWidenedInRuns() ? PART_BYTES : Number.POSITIVE_INFINITY,
    }: GraphInPartsOptions = {},
  ) {
    this.#graph = graph;
    this.#execution = execution;
    this.#parts = splitGraph(graph, Math.max(1, Math.ceil(weightBytes(graph) / partBytes)));
  }

  /**
   * One run. Outputs are handed to `take` one after the other, and are nobody else's.
   * @throws as `LoadedGraph.run`; outputs of earlier parts were taken then
   */
  async run(feeds: Feeds, take: TakeOutput): Promise<void> {
    checkFeeds(this.#graph, feeds);
    const passed = new Map<string, Tensor>();
    for (const [i, part] of this.#parts.entries()) {
      const own: Record<string, Feeds[string]> = {};
      for (const { name } of part.graph.inputs) own[name] = passed.get(name) ?? feeds[name]!;
      const outputs = await this.#runPart(part, own);
      for (const value of part.passed) {
        passed.set(value.name, outputs[passedOutput(value)]!);
        delete outputs[passedOutput(value)];
      }
      const later = this.#parts.slice(i + 1).flatMap(({ taken }) => taken);
      const wanted = new Set(later.map(({ name }) => name));
      for (const name of passed.keys()) if (!wanted.has(name)) passed.delete(name);
      for (const [name, tensor] of Object.entries(outputs)) {
        // Of a large network all outputs together are gigabytes.
        delete outputs[name];
        await take(name, tensor);
      }
    }
  }

  async dispose(): Promise<void> {
    await this.#only?.dispose();
    this.#only = null;
  }

  async #runPart({ graph }: GraphPart, feeds: Feeds): Promise<Record<string, Tensor>> {
    const { runtime } = this.#execution;
    if (this.#parts.length === 1) {
      this.#only ??= await runtime.load(graph, 'every-step', this.#execution);
      return this.#only.run(feeds);
    }
    const loaded = await runtime.load(graph, 'once', this.#execution);
    try {
      return await loaded.run(feeds);
    } finally {
      await loaded.dispose();
    }
  }
}
