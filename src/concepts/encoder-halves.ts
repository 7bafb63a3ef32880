/** Words of a base with several text encoders have vectors of each: a file with some of them is refused by name. */
import { ENCODER_KEYS } from '../adapters/schemes/textual-inversion.ts';
import type { MismatchError } from '../errors.ts';
import type { ComponentId } from '../models/families/layer-table.ts';
import type { Parts } from '../models/families/parts.ts';

const FILE_KEYS: ReadonlyMap<ComponentId, string> = new Map(Object.entries(ENCODER_KEYS));

/**
 * @param encoders text encoders that a word has vectors of
 * @param error    makes the error of what was expected and got
 * @throws what `error` makes, unless they are those of the base
 */
export function checkHalves(
  { textEncoders }: Pick<Parts, 'textEncoders'>,
  encoders: Iterable<ComponentId>,
  error: (text: string) => MismatchError,
): void {
  const wanted = [...textEncoders.keys()];
  const own = [...encoders];
  const called = (ids: readonly ComponentId[]): string =>
    ids.map((id) => `${id} (${FILE_KEYS.get(id) ?? id})`).join(' and ');
  const missing = wanted.filter((id) => !own.includes(id));
  const strange = own.filter((id) => !textEncoders.has(id));
  if (missing.length === 0 && strange.length === 0) return;
  const hint =
    strange.length > 0
      ? 'made for a base with other text encoders?'
      : 'a base with several text encoders reads a word with each of them';
  throw error(`expected vectors of ${called(wanted)}, got those of ${called(own)}; ${hint}`);
}
