/** The runtime of a page that asks for no other. The same names as in `default-runtime.ts`. */
import { InterpreterRuntime } from './interpreter-runtime.ts';
import type { Runtime } from './runtime.ts';

let runtime: Runtime | null = null;

/** Plain TypeScript. */
export function defaultRuntime(): Runtime {
  runtime ??= new InterpreterRuntime();
  return runtime;
}
