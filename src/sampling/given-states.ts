/** States of the text encoder that somebody made, in place of those of a prompt. */
import { MismatchError, NumericalError } from '../errors.ts';
import type { Conditioning } from '../models/families/conditioning.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** One window of states, [T, D], which every cross-attention reads; T is all positions of the text encoder. */
export type GivenStates = Tensor<Float32Array>;

/** Where a text is asked for, states may be given instead. */
export interface StatesInPlace {
  /** In place of the prompt's; the prompt is not read. Default: the prompt's. */
  readonly promptStates?: GivenStates;
  /** In place of the negative prompt's. Default: the negative prompt's. */
  readonly negativeStates?: GivenStates;
}

/** @throws {MismatchError} for another number of positions or another width; {NumericalError} for states that are not finite */
export function checkStates(where: string, states: GivenStates, positions: number, width: number): void {
  if (states.shape.join() !== [positions, width].join()) {
    throw new MismatchError(
      `${where}: expected states [${positions}, ${width}], as this model reads them, got [${states.shape.join(', ')}]`,
    );
  }
  const bad = states.data.find((value) => !Number.isFinite(value));
  if (bad !== undefined)
    throw new NumericalError(`${where}: expected finite states, got ${bad}`, { value: bad });
}

/**
 * The conditioning of an empty prompt with other states in its first window; as it is where none are given.
 * @param except cross-attentions that keep what they have, since they read prompts of their own
 */
export function withStates(
  conditioning: Conditioning,
  states: GivenStates | undefined,
  except: { has(layer: number): boolean },
): Conditioning {
  if (states === undefined) return conditioning;
  const { context } = conditioning;
  const [, layers, tokens, width] = context.shape as [number, number, number, number];
  const data = context.data.slice();
  for (let layer = 0; layer < layers; layer++) {
    if (!except.has(layer)) data.set(states.data, layer * tokens * width);
  }
  return { ...conditioning, context: { ...context, data } };
}
