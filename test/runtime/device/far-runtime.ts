/**
 * A device as somebody would add one: it computes by the interpreter, but has its own memory, which only its handles lead
 * to, and counts what it is asked for.
 */
import { EdloraError } from '../../../src/errors.ts';
import type { Graph } from '../../../src/graph/graph.ts';
import { interpret } from '../../../src/graph/interpret.ts';
import { checkFeeds, checkTargets } from '../../../src/runtime/check-feeds.ts';
import type {
  DeviceTensor,
  Feeds,
  GraphUse,
  LoadedGraph,
  RunSettings,
  Runtime,
} from '../../../src/runtime/runtime.ts';
import type { Tensor } from '../../../src/tensor/tensor.ts';

export class FarRuntime implements Runtime {
  readonly traits = { name: 'far' };
  /** What lies there: handles and graphs that were not disposed of. */
  readonly memory = new Map<object, Tensor | Graph>();
  readonly runs: GraphUse[] = [];

  async load(graph: Graph, use: GraphUse, { signal }: RunSettings = {}): Promise<LoadedGraph> {
    signal?.throwIfAborted();
    const loaded: LoadedGraph = {
      run: async (feeds, wanted = [...graph.outputs.keys()], into = {}) => {
        signal?.throwIfAborted();
        if (!this.memory.has(loaded)) throw new EdloraError('internal: a graph ran after it was disposed of');
        checkFeeds(graph, feeds);
        const targets = checkTargets(graph, into);
        this.runs.push(use);
        const results = interpret(graph, this.#here(feeds));
        return Object.fromEntries(
          wanted.map((name) => {
            targets[name]?.data.set(results[name]!.data as never);
            return [name, targets[name] ?? results[name]!];
          }),
        );
      },
      dispose: async () => {
        this.memory.delete(loaded);
      },
    };
    this.memory.set(loaded, graph);
    return loaded;
  }

  upload(tensor: Tensor): DeviceTensor {
    const { dtype, shape } = tensor;
    const handle: DeviceTensor = { dtype, shape, dispose: () => this.memory.delete(handle) };
    this.memory.set(handle, { ...tensor, data: tensor.data.slice() });
    return handle;
  }

  async dispose(): Promise<void> {
    this.memory.clear();
  }

  #here(feeds: Feeds): Record<string, Tensor> {
    return Object.fromEntries(
      Object.entries(feeds).map(([name, fed]) => {
        const tensor = 'data' in fed ? fed : (this.memory.get(fed) as Tensor | undefined);
        if (tensor === undefined)
          throw new EdloraError('internal: a tensor was fed after it was disposed of');
        return [name, tensor];
      }),
    );
  }
}
