/** Statistics that earlier versions kept: known by the same keys where they hold the same numbers, up to rounding. */
import path from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import type { Concept } from '../../../src/concepts/concept.ts';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { prepareConcept } from '../../../src/fusion/fusion-concept.ts';
import { DEFAULTS } from '../../../src/fusion/options.ts';
import { statisticsFileName } from '../../../src/fusion/statistics/statistics-recipe.ts';
import { StatisticsStore } from '../../../src/fusion/statistics/statistics-store.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../../src/package-root.ts';

/** The defaults of those versions. */
const FORMER = { ...DEFAULTS, promptTemplates: ['photo of a {}', '{}'] };
const SCOPES = { text: 'attention', cross: 'attention', spatial: 'attention' } as const;

let base: Checkpoint;
let concept: Concept;
beforeAll(async () => {
  base = await openCheckpoint(defaultBase());
  concept = await loadConcept(path.join(packageRoot(), 'fixtures/tiny-world/concepts/edlora_smiley.pth'));
});

async function nameOf(name: string): Promise<string> {
  const store = new StatisticsStore(base, 'cache');
  return statisticsFileName(
    await store.recipeOf(await prepareConcept(base, { concept, name }), SCOPES, FORMER),
  );
}

it('are found under the names that they had', async () => {
  expect(await nameOf('<smiley1> <smiley2>')).toBe(
    'smiley1-smiley2-e2876843f8e2f3de4cfc058e.stats.safetensors',
  );
});

it('are not found where every word of a name was taken for the concept', async () => {
  expect(await nameOf('<smiley1> <smiley2> lamp')).not.toBe(
    'smiley1-smiley2-lamp-667cb9b3bd3e9eaeeca7ca08.stats.safetensors',
  );
});
