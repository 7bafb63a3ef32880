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
