/** One loaded graph of onnxruntime. */
import { EdloraError } from '../../errors.ts';
import type { Graph } from '../../graph/graph.ts';
import { checkUnchanged, type FileIdentity } from '../../io/file-identity.ts';
import { Pace } from '../../pace.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import { checkFeeds, checkTargets } from '../check-feeds.ts';
import type { Feeds, GraphUse, LoadedGraph, RunSettings, Targets } from '../runtime.ts';
import { encodeGraph } from './encode.ts';
import type { SessionHost } from './session-host.ts';
import { sessionOptions, widensAnew } from './session-options.ts';
import type { LoweringTarget } from './targets.ts';
import { weightsAreMapped } from './weight-mapping.ts';

/** Runs of one session are independent. */
export class GraphSession implements LoadedGraph {
  readonly #host: SessionHost;
  readonly #session: number;
  readonly #graph: Graph;
  /** Files that weights are mapped from. */
  readonly #mapped: readonly FileIdentity[];
  readonly #signal: AbortSignal | undefined;

  private constructor(
    host: SessionHost,
    session: number,
    graph: Graph,
    mapped: readonly FileIdentity[],
    signal: AbortSignal | undefined,
  ) {
    this.#host = host;
    this.#session = session;
    this.#graph = graph;
    this.#mapped = mapped;
    this.#signal = signal;
  }

  /** Load a graph; its weights are mapped from the files they lie in, or read, see weight-mapping.ts. */
  static async load(
    host: SessionHost,
    target: LoweringTarget,
    graph: Graph,
    use: GraphUse,
    settings: RunSettings,
  ): Promise<GraphSession> {
    const { signal } = settings;
    signal?.throwIfAborted();
    const encoded = await new Pace(signal).run(
      encodeGraph(graph, { mapWeights: weightsAreMapped(), widenAnew: widensAnew(use), target }),
    );
    const { bytes, mapped } = encoded;
    const loading = host.load(bytes, sessionOptions(encoded, use, settings), signal);
    const session = await unchanged('load', mapped, signal, loading);
    return new GraphSession(host, session, graph, mapped, signal);
  }

  async run(feeds: Feeds, wanted?: readonly string[], into: Targets = {}): Promise<Record<string, Tensor>> {
    this.#signal?.throwIfAborted();
    // Touching a mapped file that is gone would end the process.
    checkUnchanged(this.#mapped);
    checkFeeds(this.#graph, feeds);
    const targets = checkTargets(this.#graph, into);
    const names = wanted ?? [...this.#graph.outputs.keys()];
    const outputs = names.map((name) => [`output:${name}`, targets[name] ?? null] as const);
    const running = this.#host.run(this.#session, feeds, Object.fromEntries(outputs), this.#signal);
    const results = await unchanged('run', this.#mapped, this.#signal, running);
    return Object.fromEntries(outputs.map(([output, target], i) => [names[i]!, target ?? results[output]!]));
  }

  dispose(): Promise<void> {
    return this.#host.free(this.#session);
  }
}

/**
 * What the runtime makes of files that are still what they were: what was computed while a weight changed is nobody's
 * result, and a file that shrank is the better reason for a failure.
 */
async function unchanged<T>(
  what: 'load' | 'run',
  mapped: readonly FileIdentity[],
  signal: AbortSignal | undefined,
  work: Promise<T>,
): Promise<T> {
  let result: T;
  try {
    result = await work;
  } catch (cause) {
    if (cause instanceof EdloraError || (signal?.aborted && cause === signal.reason)) throw cause;
    checkUnchanged(mapped);
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EdloraError(`onnxruntime could not ${what} the graph: ${reason}`, { cause });
  }
  checkUnchanged(mapped);
  return result;
}
