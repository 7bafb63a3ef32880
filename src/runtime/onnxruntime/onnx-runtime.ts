/** onnxruntime on the CPU. */
import type { Graph } from '../../graph/graph.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { DeviceTensor, GraphUse, LoadedGraph, RunSettings, Runtime } from '../runtime.ts';
import { CpuTensor } from './device-tensor.ts';
import { GraphSession } from './session.ts';

export class OnnxRuntime implements Runtime {
  readonly traits = { name: 'onnxruntime' };

  load(graph: Graph, use: GraphUse, settings: RunSettings = {}): Promise<LoadedGraph> {
    return GraphSession.load(graph, use, settings);
  }

  upload(tensor: Tensor): DeviceTensor {
    return new CpuTensor(tensor);
  }

  async dispose(): Promise<void> {}
}
