/** What a model reads of a prompt, as a refinement keeps it: prompts are many, and most say the same to every cross-attention. */
import type { Conditioning } from '../../models/families/conditioning.ts';
import { float32 } from '../../tensor/tensor.ts';

/** Of one row. */
export class PromptReading {
  /** Features that all cross-attentions share stand once, [1, 1, T, D]: of SDXL's 70 layers 0.6 MB in place of 44. */
  readonly kept: Conditioning;
  readonly #layers: number;

  constructor(conditioning: Conditioning) {
    const { shape, data } = conditioning.context;
    const [, layers, tokens, width] = shape as [number, number, number, number];
    const size = tokens * width;
    const isShared = data.every((value, i) => i < size || value === data[i - size]);
    this.#layers = layers;
    this.kept = isShared
      ? { ...conditioning, context: float32([1, 1, tokens, width], data.slice(0, size)) }
      : conditioning;
  }

  /** As it was given, [1, L, T, D]. */
  get conditioning(): Conditioning {
    const { shape, data } = this.kept.context;
    if (shape[1] === this.#layers) return this.kept;
    const context = float32([1, this.#layers, shape[2]!, shape[3]!]);
    for (let layer = 0; layer < this.#layers; layer++) context.data.set(data, layer * data.length);
    return { ...this.kept, context };
  }
}
