/** Loaded graphs of many shapes: the ones used last stay loaded. */
import type { Graph } from '../graph/graph.ts';
import { GraphSession, type SessionOptions } from './onnxruntime/session.ts';

export class LoadedGraphs {
  readonly #options: SessionOptions;
  readonly #kept: number;
  /** By key, the one used last at the end. */
  readonly #sessions = new Map<string, GraphSession>();

  /** @param kept loaded graphs at a time */
  constructor(kept: number, options: SessionOptions = {}) {
    this.#kept = kept;
    this.#options = options;
  }

  /** The graph of a key, loaded if it is not. @param build writes it */
  async get(key: string, build: () => Graph): Promise<GraphSession> {
    const session = this.#sessions.get(key) ?? (await GraphSession.create(build(), this.#options));
    this.#sessions.delete(key);
    this.#sessions.set(key, session);
    if (this.#sessions.size > this.#kept) {
      const [oldestKey, oldest] = this.#sessions.entries().next().value!;
      this.#sessions.delete(oldestKey);
      await oldest.dispose();
    }
    return session;
  }

  /** Free all of them. */
  async dispose(): Promise<void> {
    const sessions = [...this.#sessions.values()];
    this.#sessions.clear();
    for (const session of sessions) await session.dispose();
  }
}
