/** Tensors of the CPU: they lie where everybody can read them. */
import { EdloraError } from '../../errors.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { DeviceTensor } from '../runtime.ts';

export class CpuTensor implements DeviceTensor {
  #tensor: Tensor | null;
  readonly #disposing: (() => void)[] = [];

  constructor(tensor: Tensor) {
    this.#tensor = tensor;
  }

  /** @throws {EdloraError} after `dispose` */
  get tensor(): Tensor {
    if (this.#tensor === null) throw new EdloraError('internal: a tensor was fed after it was disposed of');
    return this.#tensor;
  }

  get dtype(): Tensor['dtype'] {
    return this.tensor.dtype;
  }

  get shape(): readonly number[] {
    return this.tensor.shape;
  }

  /** Whoever has a copy frees it then. */
  onDispose(free: () => void): void {
    this.#disposing.push(free);
  }

  dispose(): void {
    this.#tensor = null;
    for (const free of this.#disposing.splice(0)) free();
  }
}

/** What a feed holds. @throws {EdloraError} if another runtime keeps it */
export function tensorOf(fed: Tensor | DeviceTensor): Tensor {
  if (fed instanceof CpuTensor) return fed.tensor;
  if ('data' in fed) return fed;
  throw new EdloraError('internal: a tensor was fed that another runtime keeps');
}
