/** A concept of random factors and words, for any base: what fits it, without having been trained. */
import { type MergedLayer, writeLora } from '../../src/concepts/lora-file.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import { familyOfAdapters } from '../../src/models/families/families.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

const RANK = 2;

/** Write it: all attentions at rank 2, and words with one embedding per cross-attention. */
export async function writeRandomConcept(
  file: string,
  base: Checkpoint,
  { words, seed }: { readonly words: readonly string[]; readonly seed: number },
): Promise<void> {
  const random = new TorchGenerator(seed);
  const layers = base.parts.layers
    .linear()
    .filter(({ role }) => /attention|context/.test(role))
    .map(
      ({ component, layerName, m, n, kernel }): MergedLayer => ({
        component: component as MergedLayer['component'],
        layerName,
        up: random.randn(RANK * m).map((value) => value / 4),
        down: random.randn(RANK * n).map((value) => value / 4),
        rank: RANK,
        kernel: kernel === null ? null : [1, 1],
      }),
    );
  const rows = base.parts.layers.contextCount;
  const vectors = ({ config: { hiddenSize } }: { config: { hiddenSize: number } }, word: string) =>
    float32Tensor(word, [rows, hiddenSize], random.randn(rows * hiddenSize));
  const tokens = words.map((word) => ({
    word,
    embeddings: new Map([...base.parts.textEncoders].map(([id, part]) => [id, vectors(part, word)])),
  }));
  await writeLora(file, layers, { naming: 'ed-lora', family: familyOfAdapters(base.family), tokens });
}
