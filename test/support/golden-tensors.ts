/** Tensors of a golden file by name, as numbers. */

import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { goldenPath } from './goldens.ts';

export class GoldenTensors {
  readonly #file: TensorFile;

  private constructor(file: TensorFile) {
    this.#file = file;
  }

  /** @param parts path inside the goldens */
  static async open(...parts: string[]): Promise<GoldenTensors> {
    return new GoldenTensors(await openTensorFile(goldenPath(...parts)));
  }

  get names(): string[] {
    return [...this.#file.tensors.keys()];
  }

  has(name: string): boolean {
    return this.#file.tensors.has(name);
  }

  tensor(name: string): Tensor<Float32Array> {
    const raw = this.#file.tensors.get(name);
    if (raw === undefined) throw new Error(`${this.#file.path} has no ${name}`);
    return float32(raw.shape, readFloat32(raw));
  }

  values(name: string): Float32Array {
    return this.tensor(name).data;
  }
}
