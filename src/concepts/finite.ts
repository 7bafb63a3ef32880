/** The check that all numbers of a concept are finite. */
import { holdsFinite } from '../adapters/finite.ts';
import { FormatError } from '../errors.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import { Pace } from '../pace.ts';
import type { Concept } from './concept.ts';

/**
 * Read every tensor of a concept and refuse NaN and infinite values.
 * @param pace between the tensors
 * @throws {FormatError} naming the first such tensor and how many there are
 */
export async function checkFinite(
  concept: Pick<Concept, 'path' | 'tokens' | 'layers'>,
  pace: Pace = new Pace(),
): Promise<void> {
  const bad: string[] = [];
  const check = async (tensor: RawTensor): Promise<void> => {
    if (!holdsFinite(tensor)) bad.push(tensor.name);
    await pace.turn();
  };
  for (const { embeddings } of concept.tokens) {
    for (const embedding of embeddings.values()) await check(embedding);
  }
  for (const { up, down } of concept.layers.values()) {
    await check(up);
    await check(down);
  }
  if (bad.length > 0) {
    const tensor = bad[0]!;
    const more = bad.length > 1 ? `, in ${bad.length - 1} more tensors too` : '';
    throw new FormatError(
      concept.path,
      `${tensor}: expected finite numbers, got NaN or infinity${more}; training diverged?`,
      { tensor },
    );
  }
}
