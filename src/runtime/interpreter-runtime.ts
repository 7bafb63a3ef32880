/**
 * The plain interpreter as a runtime: every operator by its definition, slowly. The judge of the others in tests, and an
 * example of all that a runtime has to do.
 */
import { EdloraError } from '../errors.ts';
import type { Graph } from '../graph/graph.ts';
import { interpret } from '../graph/interpret.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { checkFeeds, checkTargets } from './check-feeds.ts';
import type { DeviceTensor, Feeds, GraphUse, LoadedGraph, RunSettings, Runtime } from './runtime.ts';

export class InterpreterRuntime implements Runtime {
  readonly traits = { name: 'interpreter' };

  async load(graph: Graph, _use: GraphUse, { signal }: RunSettings = {}): Promise<LoadedGraph> {
    signal?.throwIfAborted();
    return {
      run: async (feeds, wanted = [...graph.outputs.keys()], into = {}) => {
        signal?.throwIfAborted();
        checkFeeds(graph, feeds);
        const targets = checkTargets(graph, into);
        const results = interpret(graph, tensorsOf(feeds));
        return Object.fromEntries(wanted.map((name) => [name, placed(results[name]!, targets[name])]));
      },
      dispose: async () => undefined,
    };
  }

  upload(tensor: Tensor): DeviceTensor {
    return { ...tensor, dispose: () => undefined };
  }

  async dispose(): Promise<void> {}
}

function tensorsOf(feeds: Feeds): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(feeds).map(([name, fed]) => {
      if (!('data' in fed)) throw new EdloraError('internal: a tensor was fed that another runtime keeps');
      return [name, fed];
    }),
  );
}

function placed(result: Tensor, target: Tensor | undefined): Tensor {
  target?.data.set(result.data as never);
  return target ?? result;
}
