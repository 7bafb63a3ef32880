/** What a job runs with: made once where it enters the library, and handed down whole. */
import { defaultRuntime } from './default-runtime.ts';
import type { RunSettings, Runtime } from './runtime.ts';

/** As the callers of the library say it. */
export interface ExecutionRequest {
  /** Where networks run. Default: onnxruntime on the CPU. Algebra in float64 stays on the CPU. */
  readonly runtime?: Runtime;
  /** CPU threads of one operator. Default: the runtime's choice, one per core. */
  readonly threads?: number;
  /** Ends the job by throwing its reason: at its next step, and without waiting for a network that loads or runs. */
  readonly signal?: AbortSignal;
}

/** @typeParam P what the job tells of its progress; one that tells nothing takes the context of any */
export interface ExecutionContext<P = never> extends RunSettings {
  readonly runtime: Runtime;
  readonly progress?: (progress: P) => void;
}

/** The context of a request. @param progress told of what is done */
export function executionContext<P = never>(
  { runtime = defaultRuntime(), threads, signal }: ExecutionRequest = {},
  progress?: (progress: P) => void,
): ExecutionContext<P> {
  return { runtime, threads, signal, progress };
}

/** The same context for a part of the job, which tells of other things. */
export function withProgress<P>(
  { runtime, threads, signal }: ExecutionContext,
  progress: (progress: P) => void,
): ExecutionContext<P> {
  return { runtime, threads, signal, progress };
}
