/** The only place that knows onnxruntime: loads a graph, runs it, gives its memory back. */
import type * as ort from 'onnxruntime-node';
import { EdloraError, ShapeError } from '../../errors.ts';
import type { Graph } from '../../graph/graph.ts';
import { describe } from '../../graph/value.ts';
import { checkUnchanged, type FileIdentity } from '../../io/file-identity.ts';
import { Pace } from '../../pace.ts';
import type { Tensor, TensorData } from '../../tensor/tensor.ts';
import { encodeGraph } from './encode.ts';
import { weightsAreMapped } from './weight-mapping.ts';

export interface SessionOptions {
  /** CPU threads of one operator; default: the runtime's choice (one per core). */
  readonly threads?: number;
  /**
   * Keep one copy of each weight instead of a second, reordered one, and place values as they come instead of in one
   * block that is laid out after the first run and stands beside what that run had taken. Loads faster and in less
   * memory; matrix products run at the same speed only when weights are used once per run. Default false.
   */
  readonly lean?: boolean;
  /**
   * Lay out all values of a run in one block from the second run on. Default: unless lean. Off saves that block, which
   * stands beside what the first run took: half a gigabyte and more at full size.
   */
  readonly planned?: boolean;
  /**
   * Let threads wait in a busy loop between operators. Default true; off for many short runs beside other work, which
   * the loops would slow down.
   */
  readonly spin?: boolean;
}

export type Feeds = Readonly<Record<string, Tensor>>;

/** A loaded graph. Runs of one session are independent; dispose it when done. */
export class GraphSession {
  readonly #runtime: typeof ort;
  readonly #session: ort.InferenceSession;
  readonly #graph: Graph;
  /** Files that weights are mapped from. */
  readonly #mapped: readonly FileIdentity[];

  private constructor(
    runtime: typeof ort,
    session: ort.InferenceSession,
    graph: Graph,
    mapped: readonly FileIdentity[],
  ) {
    this.#runtime = runtime;
    this.#session = session;
    this.#graph = graph;
    this.#mapped = mapped;
  }

  /**
   * Load a graph; its weights are mapped from the files they lie in, or read, see weight-mapping.ts.
   * @throws {EdloraError} when the runtime refuses the graph, with its reason
   * @throws {FormatError} when a weight cannot be read, or its file has changed since it was opened
   */
  static async create(graph: Graph, options: SessionOptions = {}): Promise<GraphSession> {
    const { bytes, weightFolder, inMemory, mapped } = await new Pace().run(
      encodeGraph(graph, { mapWeights: weightsAreMapped() }),
    );
    const session: Record<string, string | Record<string, string>> = {};
    if (weightFolder !== null) session.model_external_initializers_file_folder_path = weightFolder;
    if (options.lean) session.disable_prepacking = '1';
    if (options.spin === false) session.intra_op = { allow_spinning: '0' };
    // Loaded with the first graph: commands that need none start quicker.
    const runtime = await import('onnxruntime-node');
    try {
      const loaded = await runtime.InferenceSession.create(bytes, {
        // 'all' reorders convolution weights: 12–19 s of loading for 4 % of speed at full size.
        graphOptimizationLevel: 'extended',
        logSeverityLevel: 3,
        enableMemPattern: options.planned ?? options.lean !== true,
        // An undefined property is refused there.
        ...(options.threads === undefined ? {} : { intraOpNumThreads: options.threads }),
        ...(inMemory.length === 0
          ? {}
          : { externalData: inMemory.map(({ location, data }) => ({ path: location, data })) }),
        extra: { session },
      });
      checkUnchanged(mapped);
      return new GraphSession(runtime, loaded, graph, mapped);
    } catch (cause) {
      if (cause instanceof EdloraError) throw cause;
      // A file that shrank while it was loaded is the better reason.
      checkUnchanged(mapped);
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new EdloraError(`onnxruntime could not load the graph: ${reason}`, { cause });
    }
  }

  /**
   * One run. `feeds` holds every input of the graph by name.
   * @param wanted names of the outputs to compute; default all. What only others need is not computed.
   * @param into   arrays that outputs are written to, by name; their tensors in the result lie over them
   * @throws {ShapeError} when an input is missing, unknown or of another dtype or shape, or an array's length is wrong
   * @throws {FormatError} when a file that weights are mapped from has changed: touching what is gone would end the process
   */
  async run(
    feeds: Feeds,
    wanted?: readonly string[],
    into: Readonly<Record<string, TensorData>> = {},
  ): Promise<Record<string, Tensor>> {
    checkUnchanged(this.#mapped);
    const tensors: Record<string, ort.Tensor> = {};
    for (const value of this.#graph.inputs) {
      const fed = feeds[value.name];
      if (fed === undefined)
        throw new ShapeError(`input "${value.name}": expected ${describe(value)}, got nothing`);
      if (fed.dtype !== value.dtype || fed.shape.join() !== value.shape.join()) {
        throw new ShapeError(`input "${value.name}": expected ${describe(value)}, got ${describe(fed)}`);
      }
      tensors[value.name] = new this.#runtime.Tensor(fed.dtype, fed.data as never, fed.shape);
    }
    const known = new Set(this.#graph.inputs.map((value) => value.name));
    for (const name of Object.keys(feeds)) {
      if (!known.has(name)) throw new ShapeError(`input "${name}": the graph has no such input`);
    }
    const names = wanted ?? [...this.#graph.outputs.keys()];
    const results = await this.#session.run(
      tensors,
      Object.fromEntries(names.map((name) => [`output:${name}`, this.#place(name, into[name])])),
    );
    // What was computed while a weight changed is nobody's result.
    checkUnchanged(this.#mapped);
    return Object.fromEntries(
      names.map((name) => {
        const { dtype } = this.#graph.outputs.get(name)!;
        const { dims, data: given } = results[`output:${name}`]!;
        // Newer runtimes of JavaScript have an array type for halves; here they are bits.
        const data =
          dtype === 'float16' && ArrayBuffer.isView(given)
            ? new Uint16Array(given.buffer, given.byteOffset, given.byteLength / 2)
            : given;
        return [name, { dtype, shape: dims, data: data as TensorData } as Tensor];
      }),
    );
  }

  /** An output's tensor over the caller's array; `null` lets the runtime allocate. */
  #place(name: string, data: TensorData | undefined): ort.Tensor | null {
    if (data === undefined) return null;
    const { dtype, shape } = this.#graph.outputs.get(name)!;
    const count = shape.reduce((product, size) => product * size, 1);
    if (data.length !== count)
      throw new ShapeError(`output "${name}": expected an array of ${count}, got one of ${data.length}`);
    return new this.#runtime.Tensor(dtype as 'float32', data as never, shape);
  }

  /** Free the session's memory. */
  async dispose(): Promise<void> {
    await this.#session.release();
  }
}
