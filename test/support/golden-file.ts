/** A file of reference numbers. */
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { type RawTensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';

export class Golden {
  readonly file: TensorFile;
  constructor(file: TensorFile) {
    this.file = file;
  }
  static async open(file: string): Promise<Golden> {
    return new Golden(await openTensorFile(file));
  }
  has(name: string): boolean {
    return this.file.tensors.has(name);
  }
  raw(name: string): RawTensor {
    const tensor = this.file.tensors.get(name);
    if (tensor === undefined) throw new Error(`${this.file.path} has no ${name}`);
    return tensor;
  }
  tensor(name: string): Tensor<Float32Array> {
    return float32(this.raw(name).shape, readFloat32(this.raw(name)));
  }
  values(name: string): Float32Array {
    return readFloat32(this.raw(name));
  }
  /** Entry i along the first axis, repeated `times`. */
  row(name: string, i: number, times = 1): Tensor<Float32Array> {
    const { shape, data } = this.tensor(name);
    const size = data.length / shape[0]!;
    const one = data.subarray(i * size, (i + 1) * size);
    const all = float32([times, ...shape.slice(1)]);
    for (let k = 0; k < times; k++) all.data.set(one, k * size);
    return all;
  }
  /** Names that match, with their captures. */
  cases(pattern: RegExp): RegExpExecArray[] {
    return [...this.file.tensors.keys()].map((name) => pattern.exec(name)).filter((match) => match !== null);
  }
}
