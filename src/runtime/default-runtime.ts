/** The runtime of a process that asks for no other. */
import { OnnxRuntime } from './onnxruntime/onnx-runtime.ts';
import type { Runtime } from './runtime.ts';

let runtime: Runtime | null = null;

/** onnxruntime on this machine's CPU, made when it is first asked for. */
export function defaultRuntime(): Runtime {
  runtime ??= new OnnxRuntime();
  return runtime;
}
