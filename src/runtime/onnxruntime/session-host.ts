/** Who holds sessions of onnxruntime: the calling thread, or one of its own. */
import type { InferenceSession } from 'onnxruntime-node';
import type { Tensor } from '../../tensor/tensor.ts';
import type { Feeds } from '../runtime.ts';

export interface SessionHost {
  /**
   * Load an encoded graph. Its bytes may be gone afterwards.
   * @returns the session's number here
   */
  load(bytes: Uint8Array, options: InferenceSession.SessionOptions, signal?: AbortSignal): Promise<number>;
  /**
   * One run of a session.
   * @param outputs those that are wanted, each over the array to write it to; null: an array is made
   * @returns those with arrays that were made, at least
   */
  run(
    session: number,
    feeds: Feeds,
    outputs: Readonly<Record<string, Tensor | null>>,
    signal?: AbortSignal,
  ): Promise<Record<string, Tensor>>;
  free(session: number): Promise<void>;
}
