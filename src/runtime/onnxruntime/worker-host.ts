/**
 * Sessions in a thread of their own, so that the caller's event loop turns while networks load and run.
 *
 * What was found of onnxruntime-node 1.30 in threads: it is made for them; sessions of several threads beside each other
 * give the same bits, a thread that rests can be ended and another one started, and memory does not grow over hundreds of
 * loads. One pass of Stable Diffusion 1.5's UNet takes 1 to 2 % longer there (4.3 s, two cores), a run of a tiny graph 0.1
 * ms instead of 0.03. Arrays that threads share are refused as feeds, so feeds are copied once and handed over; results
 * come back without a copy. But a thread must not be ended inside a call: that ends the process, by `process.exit` too.
 */
import { Worker } from 'node:worker_threads';
import type { InferenceSession } from 'onnxruntime-node';
import { EdloraError } from '../../errors.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { Feeds } from '../runtime.ts';
import { CpuTensor, tensorOf } from './device-tensor.ts';
import type { SessionHost } from './session-host.ts';

interface Waiting {
  resolve(result: unknown): void;
  reject(error: unknown): void;
  /** Nobody waits any more. */
  abandoned: boolean;
}

/** What each thread is at, and whether it may begin anything: shared with it. */
const states = new Set<Int32Array>();
let endsInOrder = false;

/**
 * Wait, holding the calling thread, until no network loads or runs any more. None is begun afterwards: this is for a process
 * that ends.
 * @returns whether all came to rest in this time; if not, only a signal ends the process before they do
 */
export function networksRestWithin(milliseconds: number): boolean {
  const until = performance.now() + milliseconds;
  for (const state of states) Atomics.store(state, 1, 1);
  for (const state of states) {
    while (Atomics.load(state, 0) === 1) {
      const left = until - performance.now();
      if (!(left > 0)) return false;
      Atomics.wait(state, 0, 1, left);
    }
  }
  return true;
}

/** A thread with its sessions. It keeps the process alive only while somebody waits for it. */
export class WorkerHost implements SessionHost {
  readonly #worker: Worker;
  readonly #state = new Int32Array(new SharedArrayBuffer(8));
  readonly #waiting = new Map<number, Waiting>();
  #asked = 0;
  readonly #sessions = new Set<number>();
  /** Tensors that the thread keeps, by their key there. */
  readonly #kept = new Map<CpuTensor, number>();
  /** It ends when it has nothing left to do, and takes no new graphs. */
  #retired = false;
  /** Why it is gone. */
  #gone: string | null = null;

  constructor() {
    // Options of the process (loaders, debuggers) are none of this thread's.
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: { state: this.#state.buffer },
      execArgv: [],
    });
    this.#worker.unref();
    this.#worker.on('message', (reply) => this.#answered(reply));
    this.#worker.on('error', (error) => this.#end(error.message));
    this.#worker.on('exit', () => this.#end('it was ended'));
    states.add(this.#state);
    if (!endsInOrder) process.once('exit', () => networksRestWithin(Number.POSITIVE_INFINITY));
    endsInOrder = true;
  }

  /** Whether it takes new graphs: it lives, and is not busy with what nobody waits for. */
  get open(): boolean {
    return !this.#retired && this.#gone === null;
  }

  load(bytes: Uint8Array, options: InferenceSession.SessionOptions, signal?: AbortSignal): Promise<number> {
    const external = (options.externalData ?? []) as readonly { readonly data: Uint8Array }[];
    const transfer = [bytes, ...external.map(({ data }) => data)].map(({ buffer }) => buffer as ArrayBuffer);
    return this.#ask<number>({ op: 'load', bytes, options }, transfer, signal);
  }

  async run(
    session: number,
    feeds: Feeds,
    outputs: Readonly<Record<string, Tensor | null>>,
    signal?: AbortSignal,
  ): Promise<Record<string, Tensor>> {
    const transfer: ArrayBuffer[] = [];
    const sent: Record<string, Tensor | number> = {};
    for (const [name, fed] of Object.entries(feeds)) {
      sent[name] = fed instanceof CpuTensor ? this.#keep(fed) : copied(tensorOf(fed), transfer);
    }
    const request = { op: 'run', session, feeds: sent, wanted: Object.keys(outputs) };
    const results = await this.#ask<Record<string, Tensor>>(request, transfer, signal);
    for (const [name, target] of Object.entries(outputs)) {
      target?.data.set(results[name]!.data as never);
    }
    return results;
  }

  /** Free a session; where it goes on with what nobody waits for, this is not waited for either. */
  async free(session: number): Promise<void> {
    if (this.#gone !== null) return;
    await this.#ask<void>({ op: 'free', session }, [], undefined, !this.#retired);
  }

  /** Take no more graphs, and end when nothing is left to do. */
  retire(): void {
    this.#retired = true;
    this.#endIfDone();
  }

  /** Ask the thread for something. @throws the signal's reason as soon as it is aborted, whatever the thread is at */
  #ask<T>(
    request: object,
    transfer: readonly ArrayBuffer[],
    signal?: AbortSignal,
    waited = true,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.#gone !== null) throw goneError(this.#gone);
      const id = ++this.#asked;
      const settled = (): void => signal?.removeEventListener('abort', abandon);
      const waiting: Waiting = {
        resolve: (result) => {
          settled();
          resolve(result as T);
        },
        reject: (error) => {
          settled();
          reject(error);
        },
        abandoned: !waited,
      };
      const abandon = (): void => {
        waiting.abandoned = true;
        this.retire();
        this.#holdProcess();
        reject(signal!.reason);
      };
      signal?.addEventListener('abort', abandon, { once: true });
      this.#waiting.set(id, waiting);
      this.#holdProcess();
      this.#worker.postMessage({ ...request, id }, transfer);
      if (!waited) resolve(undefined as T);
    });
  }

  #answered({ id, op, session, result, error }: Reply): void {
    const waiting = this.#waiting.get(id)!;
    this.#waiting.delete(id);
    if (op === 'load' && error === undefined) this.#sessions.add(result as number);
    if (op === 'free') this.#sessions.delete(session!);
    if (error !== undefined) waiting.reject(new Error(error));
    // Loaded for nobody.
    else if (waiting.abandoned && op === 'load') void this.free(result as number);
    else waiting.resolve(result);
    this.#holdProcess();
    this.#endIfDone();
  }

  #holdProcess(): void {
    const waited = [...this.#waiting.values()].some(({ abandoned }) => !abandoned);
    if (waited) this.#worker.ref();
    else this.#worker.unref();
  }

  #endIfDone(): void {
    if (!this.#retired || this.#waiting.size > 0 || this.#sessions.size > 0 || this.#gone !== null) return;
    this.#end('it was ended');
    this.#worker.postMessage({ op: 'end' });
  }

  #end(reason: string): void {
    this.#gone ??= reason;
    for (const { reject } of this.#waiting.values()) reject(goneError(this.#gone));
    this.#waiting.clear();
    states.delete(this.#state);
  }

  /** The key of a tensor in the thread, where it is sent once. */
  #keep(tensor: CpuTensor): number {
    let key = this.#kept.get(tensor);
    if (key === undefined) {
      key = ++this.#asked;
      this.#kept.set(tensor, key);
      const transfer: ArrayBuffer[] = [];
      this.#worker.postMessage({ op: 'keep', key, tensor: copied(tensor.tensor, transfer) }, transfer);
      tensor.onDispose(() => {
        this.#kept.delete(tensor);
        this.#worker.postMessage({ op: 'forget', key });
      });
    }
    return key;
  }
}

interface Reply {
  readonly id: number;
  readonly op: string;
  /** Of the request. */
  readonly session?: number;
  readonly result: unknown;
  readonly error?: string;
}

/** A tensor that can be handed over: its caller goes on with the array it has. */
function copied(tensor: Tensor, transfer: ArrayBuffer[]): Tensor {
  const data = tensor.data.slice();
  transfer.push(data.buffer as ArrayBuffer);
  return { dtype: tensor.dtype, shape: [...tensor.shape], data };
}

const goneError = (reason: string): EdloraError =>
  new EdloraError(`onnxruntime: the thread that networks run in is gone: ${reason}`);
