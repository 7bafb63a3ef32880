/** onnxruntime, on the CPU unless told otherwise. */
import type { Graph } from '../../graph/graph.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { DeviceTensor, GraphUse, LoadedGraph, RunSettings, Runtime } from '../runtime.ts';
import { callingThread } from './calling-thread.ts';
import { CpuTensor } from './device-tensor.ts';
import { GraphSession } from './session.ts';
import { isShort } from './short-run.ts';
import { CPU_TARGET, type LoweringTarget } from './targets.ts';
import { WorkerHost } from './worker-host.ts';

/** Networks run in a thread of their own; sums and products that take some milliseconds in the caller's. */
export class OnnxRuntime implements Runtime {
  readonly traits = { name: 'onnxruntime' };
  readonly #target: LoweringTarget;
  #thread: WorkerHost | null = null;

  /** @param target whose kernels graphs are written with */
  constructor(target: LoweringTarget = CPU_TARGET) {
    this.#target = target;
  }

  load(graph: Graph, use: GraphUse, settings: RunSettings = {}): Promise<LoadedGraph> {
    const host = isShort(graph) ? callingThread : this.#worker();
    return GraphSession.load(host, this.#target, graph, use, settings);
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
