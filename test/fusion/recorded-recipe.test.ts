/** A fusion's files name others as seen from themselves; only recipe.json says where files elsewhere are. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { FusionRecipe } from '../../src/fusion/recipe.ts';
import { keptRecipe, placedRecipe, sharedRecipe, sharedReport } from '../../src/fusion/recorded-recipe.ts';
import type { FusionReport } from '../../src/fusion/report/report.ts';

const root = mkdtempSync(path.join(os.tmpdir(), 'edlora-recipe-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
mkdirSync(path.join(root, 'concepts'));
const concept = path.join(root, 'concepts', 'cat.pth');
writeFileSync(concept, 'cat');
const folder = path.join(root, 'fused');

const recipe = {
  base: {
    path: '/elsewhere/model',
    files: [{ path: '/elsewhere/model/unet/a.safetensors', sha256: 'a' }],
  },
  concepts: [{ name: 'cat', path: concept, files: [{ path: concept, sha256: 'c' }] }],
} as unknown as FusionRecipe;

describe.skipIf(path.sep === '\\')('a fusion’s recipe', () => {
  it('names files elsewhere by name alone in what is shared, and with their sizes', () => {
    expect(sharedRecipe(recipe, folder)).toMatchObject({
      base: { path: 'model', files: [{ path: 'model/unet/a.safetensors', sha256: 'a' }] },
      concepts: [
        { path: '../concepts/cat.pth', files: [{ path: '../concepts/cat.pth', sha256: 'c', sizeBytes: 3 }] },
      ],
    });
  });

  it('keeps their places in recipe.json, from which all can be found again', () => {
    const kept = keptRecipe(recipe, folder);
    expect(kept).toMatchObject({
      base: { path: '/elsewhere/model' },
      concepts: [{ path: '../concepts/cat.pth' }],
    });
    expect(placedRecipe(kept, folder)).toEqual(recipe);
    // Older files hold absolute paths.
    expect(placedRecipe(recipe, folder)).toEqual(recipe);
  });

  it('and its report say no more', () => {
    const report = {
      concepts: [{ name: 'cat', file: '/elsewhere/cat.pth' }],
      statistics: [
        'collected',
        'collected; /elsewhere/x.stats.safetensors was collected with other options',
        'fused',
      ],
    } as unknown as FusionReport;
    expect(sharedReport(report, folder)).toEqual({
      concepts: [{ name: 'cat', file: 'cat.pth' }],
      statistics: ['collected', 'collected; x.stats.safetensors was collected with other options', 'fused'],
    });
  });
});
