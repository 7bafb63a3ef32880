/** How Stable Diffusion 1.x and 2.x read prompts: the last hidden states of its one text encoder, behind the final norm. */
import { encodeText } from '../clip/encode-text.ts';
import { TokenEmbeddings } from '../clip/text-encoder.ts';
import type { MakeTokenEncoder } from './conditioning.ts';
import type { TextReading } from './family.ts';
import { within } from './layer-table.ts';

export const SD1_READING: TextReading = { clipSkip: 0, finalNorm: true, pooled: false };

export const sd1TokenEncoder: MakeTokenEncoder = (
  parts,
  { added, deltas = new Map(), clipSkip = 0, execution } = {},
) => {
  const { textEncoder: encoder, textEncoderId } = parts;
  const embeddings = new TokenEmbeddings(encoder.weights, encoder.config, added?.(textEncoderId));
  const own = within(textEncoderId, deltas);
  return {
    encode: async (batch) => {
      const { hiddenStates } = await encodeText(
        encoder,
        embeddings,
        batch.map(([ids]) => ids!),
        { deltas: own, clipSkip },
        execution,
      );
      return { states: hiddenStates };
    },
  };
};
