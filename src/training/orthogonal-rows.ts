/**
 * Rows that concepts share no direction by: some of an orthogonal matrix that is the same for everybody. Which ones follows from
 * who asks, so that concepts trained apart, by people who know nothing of each other, nearly always have different ones.
 *
 * The matrix is a cosine transform behind signs of the layer's own: C diag(s), C[k, j] = √(2/n) cos(π (2j + 1) k / 2n), for
 * k = 0 √(1/n). Any row of it costs n numbers, where factorising a random one would cost n³.
 * Source of the idea: Orthogonal Adaptation, Po et al. 2024, 2312.02432, section 4; their matrix is a random one.
 */
import { UsageError } from '../errors.ts';
import { sha256Of } from '../io/platform/sha256.ts';
import { TorchGenerator } from '../tensor/random.ts';

/**
 * Orthonormal rows [count, n].
 * @param layer whose matrix it is
 * @param owner picks the rows
 * @throws {UsageError} if there are not so many
 */
export function orthogonalRows(layer: string, owner: string, count: number, n: number): Float32Array {
  if (count > n)
    throw new UsageError(`rank: ${layer} has ${n} inputs, and no ${count} directions of its own`);
  const signs = generatorOf(layer).randint(0, 2, n);
  const chosen = generatorOf(`${owner}\n${layer}`).randperm(n);
  const rows = new Float32Array(count * n);
  for (let row = 0; row < count; row++) {
    const k = chosen[row]!;
    const norm = Math.sqrt((k === 0 ? 1 : 2) / n);
    for (let j = 0; j < n; j++) {
      const sign = signs[j] === 0 ? -1 : 1;
      rows[row * n + j] = sign * norm * Math.cos((Math.PI * (2 * j + 1) * k) / (2 * n));
    }
  }
  return rows;
}

function generatorOf(text: string): TorchGenerator {
  return new TorchGenerator(Number.parseInt(sha256Of(text).slice(0, 8), 16));
}
