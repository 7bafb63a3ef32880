/** Which text encoder states are of: one hash of its weights, the same whether a file holds them in 16 or in 32 bits. */
import { floatToHalf } from '../formats/dtype.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import { sha256 } from '../io/platform/sha256.ts';
import type { ModelPart } from '../models/checkpoint.ts';
import type { ClipTextConfig } from '../models/clip/config.ts';
import { buildTextEncoder, TOKEN_TABLE } from '../models/clip/text-encoder.ts';
import { Pace, type Steps } from '../pace.ts';

/** Numbers between two turns of the event loop. */
const PIECE = 1 << 18;

/**
 * sha256 over the token table and every weight of the encoder's graph, each rounded to 16 bits as files of half width hold it.
 * @throws {FormatError} if a weight cannot be read
 */
export async function textEncoderHash(
  part: ModelPart<ClipTextConfig>,
  signal?: AbortSignal,
): Promise<string> {
  return new Pace(signal).run(hashSteps(part));
}

function* hashSteps({ weights, config }: ModelPart<ClipTextConfig>): Steps<string> {
  const { graph } = buildTextEncoder(weights, config, { batch: 1, tokens: config.maxPositions });
  const hash = sha256();
  const table = weights.get(TOKEN_TABLE);
  for (const raw of [...(table === undefined ? [] : [table]), ...graph.weights.map((weight) => weight.raw)]) {
    const values = readFloat32(raw);
    for (let start = 0; start < values.length; start += PIECE) {
      hash.update(
        new Uint8Array(Uint16Array.from(values.subarray(start, start + PIECE), floatToHalf).buffer),
      );
      yield;
    }
  }
  return hash.digest('hex');
}
