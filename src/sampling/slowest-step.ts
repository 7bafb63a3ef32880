import type { OnStep } from './denoising-run.ts';

/** Progress of pictures that are drawn side by side: a step is done when all of them have done it. */
export class SlowestStep {
  readonly #done: Map<number, number>;
  readonly #onStep: OnStep;
  #told = 0;
  #predicted: Parameters<OnStep>[0]['predicted'] | null = null;

  /** @param pictures by index; the predicted latents are those of the first */
  constructor(pictures: readonly number[], onStep: OnStep) {
    this.#done = new Map(pictures.map((index) => [index, 0]));
    this.#onStep = onStep;
  }

  /** A picture's own steps. */
  of(index: number): OnStep {
    const [first] = this.#done.keys();
    return (step) => {
      this.#done.set(index, step.done);
      if (index === first) this.#predicted = step.predicted;
      const done = Math.min(...this.#done.values());
      if (done <= this.#told) return;
      this.#told = done;
      // The first has done as many steps as the slowest.
      return this.#onStep({ ...step, done, predicted: this.#predicted! });
    };
  }
}
