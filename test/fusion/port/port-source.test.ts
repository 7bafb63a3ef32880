/** What is ported, and from whom its refinement learns: the concept itself, or the very files that a fusion was made of. */
import { copyFileSync, renameSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../../src/concepts/fit.ts';
import { FormatError, UsageError } from '../../../src/errors.ts';
import { fuse } from '../../../src/fusion/fuse.ts';
import { writeFusion } from '../../../src/fusion/output.ts';
import { portable } from '../../../src/fusion/port/port.ts';
import { openPortSource } from '../../../src/fusion/port/port-source.ts';
import { frobeniusNorm, scale, subtract } from '../../../src/linalg/low-rank.ts';
import type { ModelDeltas } from '../../../src/models/lora.ts';
import { scratch } from '../../support/scratch.ts';
import { type SmallFusion, smallFusion } from '../../support/small-fusion.ts';

const SIZE = { width: 32, height: 16 };

let small: SmallFusion;
let folder: string;
beforeAll(async () => {
  small = await smallFusion();
  folder = scratch('fused');
  const concepts = [];
  for (const [file, unetStrength] of [
    [small.concepts.maple, 0.5],
    [small.concepts.river, 1],
  ] as const) {
    concepts.push({ concept: await loadConcept(file), unetStrength });
  }
  const options = { steps: 1, runs: 1, size: SIZE };
  await writeFusion(
    await fuse({ base: small.base, concepts, options, preserveCaptions: ['a tree'] }),
    folder,
  );
}, 60_000);

function expectSame(own: ModelDeltas, other: ModelDeltas): void {
  expect([...own.keys()]).toEqual([...other.keys()]);
  for (const [id, delta] of own) {
    expect(frobeniusNorm(subtract(delta, other.get(id)!)), id).toBeLessThan(1e-6 * frobeniusNorm(delta));
  }
}

describe('what a port’s refinement learns from', () => {
  it('is a concept’s own model, at its strength', async () => {
    const source = await openPortSource(small.concepts.maple, { base: small.base.path, strength: 0.5 });
    expect(source.names).toEqual(['<maple1> <maple2>']);
    const { teachers, size } = await source.readTeachers();
    expect(size).toBeNull();
    expect(teachers.map(({ name }) => name)).toEqual(source.names);
    expect(teachers[0]!.deltas).toBe(source.deltas);
  });

  it('is of a fusion each concept’s own model, as it was fused', async () => {
    const source = await openPortSource(folder);
    expect(source.names).toEqual(['<maple1> <maple2>', '<river1> <river2>']);
    const { teachers, size } = await source.readTeachers();
    expect(size).toEqual(SIZE);
    expect(teachers.map(({ name }) => name)).toEqual(source.names);
    const maple = await conceptDeltas(small.base, await loadConcept(small.concepts.maple));
    const half = [...maple].map(
      ([id, delta]) => [id, id.startsWith('unet:') ? scale(delta, 0.5) : delta] as const,
    );
    expectSame(teachers[0]!.deltas, new Map(half));
    expectSame(teachers[1]!.deltas, await conceptDeltas(small.base, await loadConcept(small.concepts.river)));
  });

  it('is no file that took the place of one, and none that is gone', async () => {
    const { maple, river } = small.concepts;
    const source = await openPortSource(folder);
    renameSync(river, `${river}.away`);
    await expect(source.readTeachers()).rejects.toThrow(FormatError);
    await expect(source.readTeachers()).rejects.toThrow(river);
    // Of as many words as the one that was fused, under its name.
    copyFileSync(maple, river);
    await expect(source.readTeachers()).rejects.toThrow(`${river}: expected the file of the fusion, sha256 `);
    renameSync(`${river}.away`, river);
    expect((await source.readTeachers()).teachers).toHaveLength(2);
  });

  it('has to be said for several concepts, before any work', async () => {
    const source = await openPortSource(folder);
    const told: string[] = [];
    const request = {
      ...source,
      captions: ['a tree'],
      onProgress: ({ action }: { action: string }) => told.push(action),
    };
    await expect(portable({ ...request, options: { refine: 1 } })).rejects.toThrow(UsageError);
    await expect(portable({ ...request, options: { refine: 1 } })).rejects.toThrow(
      'expected the own models of 2 concepts to learn from, got none',
    );
    expect(told).toEqual([]);
  });
});
