/** Where a graph runs, as the rest of the library sees it: no device, no file format, no product has a name here. */
import type { Graph } from '../graph/graph.ts';
import type { Tensor, TensorData, TensorDType } from '../tensor/tensor.ts';

/**
 * What a loaded graph is for, which decides what it may cost.
 * - `once`: loads fast and in little memory.
 * - `every-step`: runs many times with the same weights, which may be laid out anew for speed.
 * - `training`: every weight is used forward and backward; no copy of it is kept.
 * - `many-small`: one of many short products beside other work.
 */
export type GraphUse = 'once' | 'every-step' | 'training' | 'many-small';

/** What holds for one load and all runs of what it loaded. */
export interface RunSettings {
  /** Threads of one operator. Default: the runtime's choice, one per core. */
  readonly threads?: number;
  /** Aborted, it ends every wait for a load or a run at once; what was begun ends by itself, and its result is dropped. */
  readonly signal?: AbortSignal;
}

/** What a runtime is and can do. */
export interface RuntimeTraits {
  /** For messages and recipes, e.g. `onnxruntime`. */
  readonly name: string;
}

/** A tensor where the runtime keeps it: fed as often as one likes, moved once. Dispose it when done. */
export interface DeviceTensor {
  readonly dtype: TensorDType;
  readonly shape: readonly number[];
  /** Free its memory. */
  dispose(): void;
}

/** Inputs of a run by name: from memory, or from where the runtime has them. */
export type Feeds = Readonly<Record<string, Tensor | DeviceTensor>>;

/** Where outputs of a run are written to, by name. */
export type Targets = Readonly<Record<string, TensorData | Tensor>>;

/** A graph that is ready to run. Runs are independent of each other. Dispose it when done. */
export interface LoadedGraph {
  /**
   * One run.
   * @param feeds  every input of the graph
   * @param wanted names of the outputs to compute; default all. What only others need need not be computed
   * @param into   arrays that outputs are written to, by name, or tensors over them where axes of an output are free; the result's
   *               tensors lie over them
   * @throws {ShapeError} when an input is missing, unknown or of another dtype or shape, or what an output is written to does not fit it
   * @throws {FormatError} when a file that weights lie in has changed since it was opened
   * @throws {EdloraError} when the runtime fails, with its reason
   * @throws the signal's reason
   */
  run(feeds: Feeds, wanted?: readonly string[], into?: Targets): Promise<Record<string, Tensor>>;
  /** Free its memory. */
  dispose(): Promise<void>;
}

export interface Runtime {
  readonly traits: RuntimeTraits;
  /**
   * Make a graph ready to run.
   * @throws {EdloraError} when the runtime refuses the graph, with its reason
   * @throws {FormatError} when a weight cannot be read, or its file has changed since it was opened
   * @throws the signal's reason
   */
  load(graph: Graph, use: GraphUse, settings?: RunSettings): Promise<LoadedGraph>;
  /** A tensor for many runs; the array must not change meanwhile. */
  upload(tensor: Tensor): DeviceTensor;
  /** Free everything; what it loaded cannot run any more. */
  dispose(): Promise<void>;
}
