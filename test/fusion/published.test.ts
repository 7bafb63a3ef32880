/** The published objective on the shipped concepts: it runs wherever the default does. */
import path from 'node:path';
import { expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { PRESETS } from '../../src/fusion/options.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';

const shipped = async (name: string) => ({
  concept: await loadConcept(path.join(packageRoot(), `fixtures/tiny-world/concepts/edlora_${name}.pth`)),
});

it.each([
  [3, ['smiley', 'bullseye']],
  [5, ['smiley']],
] as const)('with %d steps of %s', async (steps, names) => {
  const base = await openCheckpoint(defaultBase());
  const concepts = await Promise.all(names.map(shipped));
  const options = { ...PRESETS['mix-of-show'], steps, stages: ['spatial'] } as const;
  const { report } = await fuse({ base, concepts, options });
  // One concept is the optimum itself, and next to no ridge: nothing of it is lost, and nothing added.
  if (names.length === 1) {
    expect(report.concepts[0]!.kept.spatial).toBeGreaterThan(0.9999);
    for (const { relativeChange } of report.layers) expect(relativeChange).toBeLessThan(1.001);
  }
});
