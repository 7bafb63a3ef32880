/** onnxruntime on the CPU. */
import type { Graph } from '../../graph/graph.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { DeviceTensor, GraphUse, LoadedGraph, RunSettings, Runtime } from '../runtime.ts';
import { callingThread } from './calling-thread.ts';
import { CpuTensor } from './device-tensor.ts';
import { GraphSession } from './session.ts';
import { isShort } from './short-run.ts';
import { WorkerHost } from './worker-host.ts';

/** Networks run in a thread of their own; sums and products that take some milliseconds in the caller's. */
export class OnnxRuntime implements Runtime {
  readonly traits = { name: 'onnxruntime' };
  #thread: WorkerHost | null = null;

  load(graph: Graph, use: GraphUse, settings: RunSettings = {}): Promise<LoadedGraph> {
    return GraphSession.load(isShort(graph) ? callingThread : this.#worker(), graph, use, settings);
  }

  upload(tensor: Tensor): DeviceTensor {
    return new CpuTensor(tensor);
  }

  async dispose(): Promise<void> {
    this.#thread?.retire();
    this.#thread = null;
  }

  /** The thread; another one while the last is busy with what nobody waits for. */
  #worker(): WorkerHost {
    if (!this.#thread?.open) this.#thread = new WorkerHost();
    return this.#thread;
  }
}
