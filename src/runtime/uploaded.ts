/** Feeds that stay the same over many runs, moved to the runtime once. */
import type { Tensor } from '../tensor/tensor.ts';
import type { DeviceTensor, Runtime } from './runtime.ts';

export class UploadedFeeds {
  readonly feeds: Readonly<Record<string, DeviceTensor>>;

  /** @param tensors whose arrays do not change while these are in use */
  constructor(runtime: Runtime, tensors: Readonly<Record<string, Tensor>>) {
    this.feeds = Object.fromEntries(
      Object.entries(tensors).map(([name, tensor]) => [name, runtime.upload(tensor)]),
    );
  }

  /** Free their memory there. */
  dispose(): void {
    for (const tensor of Object.values(this.feeds)) tensor.dispose();
  }
}

/** Feeds of which some are the same tensor from run to run: those are moved there when they are fed a second time. */
export class RepeatedFeeds {
  readonly #runtime: Runtime;
  readonly #last = new Map<string, { readonly tensor: Tensor; there: DeviceTensor | null }>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** @param feeds whose arrays do not change while they are fed */
  of(feeds: Iterable<readonly [name: string, tensor: Tensor]>): Record<string, Tensor | DeviceTensor> {
    const own: Record<string, Tensor | DeviceTensor> = {};
    for (const [name, tensor] of feeds) {
      const last = this.#last.get(name);
      if (last?.tensor === tensor) {
        last.there ??= this.#runtime.upload(tensor);
        own[name] = last.there;
        continue;
      }
      last?.there?.dispose();
      this.#last.set(name, { tensor, there: null });
      own[name] = tensor;
    }
    return own;
  }

  /** Free their memory there. */
  dispose(): void {
    for (const { there } of this.#last.values()) there?.dispose();
    this.#last.clear();
  }
}
