/** One loaded graph of onnxruntime. */
import type * as ort from 'onnxruntime-node';
import { EdloraError } from '../../errors.ts';
import type { Graph } from '../../graph/graph.ts';
import { checkUnchanged, type FileIdentity } from '../../io/file-identity.ts';
import { Pace } from '../../pace.ts';
import type { Tensor, TensorData } from '../../tensor/tensor.ts';
import { checkFeeds, checkTargets } from '../check-feeds.ts';
import type { Feeds, GraphUse, LoadedGraph, RunSettings } from '../runtime.ts';
import { tensorOf } from './device-tensor.ts';
import { encodeGraph } from './encode.ts';
import { sessionOptions } from './session-options.ts';
import { weightsAreMapped } from './weight-mapping.ts';

/** Runs of one session are independent. */
export class GraphSession implements LoadedGraph {
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

  /** Load a graph; its weights are mapped from the files they lie in, or read, see weight-mapping.ts. */
  static async load(graph: Graph, use: GraphUse, settings: RunSettings): Promise<GraphSession> {
    const encoded = await new Pace().run(encodeGraph(graph, { mapWeights: weightsAreMapped() }));
    const { bytes, mapped } = encoded;
    // Loaded with the first graph: commands that need none start quicker.
    const runtime = await import('onnxruntime-node');
    try {
      const options = sessionOptions(encoded, use, settings);
      const loaded = await runtime.InferenceSession.create(bytes, options);
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

  async run(
    feeds: Feeds,
    wanted?: readonly string[],
    into: Readonly<Record<string, TensorData>> = {},
  ): Promise<Record<string, Tensor>> {
    // Touching a mapped file that is gone would end the process.
    checkUnchanged(this.#mapped);
    checkFeeds(this.#graph, feeds);
    checkTargets(this.#graph, into);
    const tensors: Record<string, ort.Tensor> = {};
    for (const { name } of this.#graph.inputs) {
      const { dtype, data, shape } = tensorOf(feeds[name]!);
      tensors[name] = new this.#runtime.Tensor(dtype, data as never, shape);
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
    return new this.#runtime.Tensor(dtype as 'float32', data as never, shape);
  }

  async dispose(): Promise<void> {
    await this.#session.release();
  }
}
