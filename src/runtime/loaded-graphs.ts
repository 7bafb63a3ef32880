/** Loaded graphs of many shapes: the ones used last stay loaded. */
import type { Graph } from '../graph/graph.ts';
import type { GraphUse, LoadedGraph, RunSettings, Runtime } from './runtime.ts';

export interface LoadedGraphsOptions extends RunSettings {
  /** Loaded graphs at a time; default 64. The one used longest ago goes before another is loaded. */
  readonly most?: number;
}

export class LoadedGraphs {
  readonly #runtime: Runtime;
  readonly #use: GraphUse;
  readonly #most: number;
  readonly #settings: RunSettings;
  /** By key, the one used last at the end. */
  readonly #loaded = new Map<string, Promise<LoadedGraph>>();

  constructor(runtime: Runtime, use: GraphUse, { most = 64, ...settings }: LoadedGraphsOptions = {}) {
    this.#runtime = runtime;
    this.#use = use;
    this.#most = most;
    this.#settings = settings;
  }

  /** The graph of a key, loaded if it is not. @param build writes it */
  async get(key: string, build: () => Graph): Promise<LoadedGraph> {
    const known = this.#loaded.get(key);
    if (known !== undefined) {
      this.#loaded.delete(key);
      this.#loaded.set(key, known);
      return known;
    }
    const loading = this.#load(build);
    this.#loaded.set(key, loading);
    // A graph that could not be loaded is asked for anew next time.
    loading.catch(() => this.#loaded.delete(key));
    return loading;
  }

  async #load(build: () => Graph): Promise<LoadedGraph> {
    const surplus = [...this.#loaded.keys()].slice(0, Math.max(0, this.#loaded.size + 1 - this.#most));
    for (const key of surplus) await this.#drop(key);
    return this.#runtime.load(build(), this.#use, this.#settings);
  }

  async #drop(key: string): Promise<void> {
    const loading = this.#loaded.get(key);
    this.#loaded.delete(key);
    await (await loading)?.dispose();
  }

  /** Free all of them. */
  async dispose(): Promise<void> {
    for (const key of [...this.#loaded.keys()]) await this.#drop(key);
  }
}
