/** What the options of a fusion do to its result, on a small base of random weights. */
import { beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { UsageError } from '../../src/errors.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import type { Fusion } from '../../src/fusion/fusion.ts';
import type { FusionOptions } from '../../src/fusion/options.ts';
import { planFusion } from '../../src/fusion/plan.ts';
import { frobeniusNorm, type LowRank, rankOf, scale, subtract, sum } from '../../src/linalg/low-rank.ts';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import { type SmallFusion, smallFusion } from '../support/small-fusion.ts';

const PER_STAGE = (value: number) => ({ text: value, cross: value, spatial: value });

let base: Checkpoint;
let files: SmallFusion['concepts'];
beforeAll(async () => {
  ({ base, concepts: files } = await smallFusion());
});

async function fused(
  options: Partial<FusionOptions>,
  names: readonly ('maple' | 'river')[] = ['maple', 'river'],
): Promise<Fusion> {
  const concepts = [];
  for (const name of names) concepts.push({ concept: await loadConcept(files[name]) });
  const told: [number, number][] = [];
  const fusion = await fuse({
    base,
    concepts,
    options: { steps: 1, runs: 1, ...options },
    preserveCaptions: ['a tree'],
    onProgress: ({ done, total }) => told.push([done, total]),
  });
  expect(told, 'one by one up to a total that was right from the beginning').toEqual(
    told.map((_, i) => [i + 1, told.length]),
  );
  return fusion;
}

const far = (a: LowRank, b: LowRank): number => frobeniusNorm(subtract(a, b)) / frobeniusNorm(b);

describe('solvers', () => {
  it('sum and average are the deltas themselves', async () => {
    const stages = ['cross'] as const;
    const [added, mean] = [
      await fused({ method: 'sum', stages }),
      await fused({ method: 'average', stages }),
    ];
    for (const [key, { delta }] of added.layers) {
      const own = added.concepts.map(({ deltas }) => deltas.get(key)).filter((d) => d !== undefined);
      expect(far(delta, sum(own)), key).toBeLessThan(1e-6);
      expect(far(mean.layers.get(key)!.delta, scale(sum(own), 1 / 2)), key).toBeLessThan(1e-6);
    }
    // The report's baselines are these very merges.
    for (const [i, { kept }] of added.report.concepts.entries()) {
      expect([kept.cross!]).toBeAllClose([mean.report.concepts[i]!.baselines.sum.cross!], { rtol: 1e-6 });
      expect([mean.report.concepts[i]!.kept.cross!]).toBeAllClose(
        [added.report.concepts[i]!.baselines.average.cross!],
        { rtol: 1e-6 },
      );
    }
  });

  it('lbfgs comes near the normal equations and tells its losses', async () => {
    const settings = {
      stages: ['cross'],
      preserve: PER_STAGE(0),
      ridge: PER_STAGE(1e-3),
      promptTemplates: ['photo of a {}', '{}'],
    } as const;
    const [direct, iterated] = [
      await fused(settings),
      await fused({ ...settings, method: 'lbfgs', iterations: 200 }),
    ];
    for (const { layerName, losses, loss } of iterated.report.layers) {
      expect(losses!.length, layerName).toBeGreaterThan(2);
      expect(losses!.at(-1)!, layerName).toBeLessThan(losses![0]!);
      const exact = direct.report.layers.find((layer) => layer.layerName === layerName)!;
      expect(loss, layerName).toBeLessThan(1.05 * exact.loss + 1e-12);
    }
    expect(iterated.report.stages[0]!.method).toBe('lbfgs');
  });

  it('custom-diffusion hits its tokens in K and V, and leaves the other stages to normal', async () => {
    const { report } = await fused({ method: 'custom-diffusion', promptTemplates: ['{}'] });
    expect(report.stages.map(({ method }) => method)).toEqual(['normal', 'custom-diffusion', 'normal']);
    for (const { kept } of report.concepts) expect(kept.cross!).toBeGreaterThan(1 - 1e-6);
  });
});

describe('rank', () => {
  it('cuts every layer, and says what that cost', async () => {
    const [whole, cut] = [await fused({}), await fused({ rank: 2 })];
    for (const { layerName, rank, truncation, kept } of cut.report.layers) {
      const exact = whole.report.layers.find((layer) => layer.layerName === layerName)!;
      expect(rank).toBeLessThanOrEqual(2);
      expect(truncation!.exactRank).toBe(exact.rank);
      expect(truncation!.featureError).toBeGreaterThanOrEqual(0);
      expect(exact.truncation).toBeNull();
      expect(kept).toHaveLength(2);
    }
    for (const { delta } of cut.layers.values()) expect(rankOf(delta)).toBeLessThanOrEqual(2);
  });

  it('auto keeps its share of the effect on features', async () => {
    const { report } = await fused({ rank: 'auto', rankShare: 0.9 });
    expect(report.layers.some(({ rank, truncation }) => rank < truncation!.exactRank)).toBe(true);
    for (const { truncation, layerName } of report.layers) {
      expect(truncation!.featureError ** 2, layerName).toBeLessThanOrEqual(0.1 + 1e-9);
    }
  });
});

describe('auto', () => {
  it('tries its candidates on held-out features and says why it chose', async () => {
    const auto = { text: 'auto', cross: 0.1, spatial: 'auto' } as const;
    const { report } = await fused({
      ridge: auto,
      preserve: { ...PER_STAGE(0.1), spatial: 'auto' },
      steps: 2,
    });
    const [text, cross, spatial] = report.stages;
    expect(cross!.choices).toEqual({ ridge: null, preserve: null });
    expect(text!.choices.preserve).toBeNull();
    for (const choice of [text!.choices.ridge!, spatial!.choices.ridge!]) {
      expect(choice.candidates.map(({ value }) => value)).toContain(choice.chosen);
      const best = Math.max(...choice.candidates.map(({ kept }) => kept));
      expect(choice.candidates.find(({ value }) => value === choice.chosen)!.kept).toBeGreaterThan(
        best - 0.0021,
      );
    }
    const { candidates, chosen, reason } = spatial!.choices.preserve!;
    expect(reason).toMatch(/strongest/);
    const changes = candidates.map(({ preservedChange }) => preservedChange!);
    expect(changes.at(-1)!, 'more preservation changes the base less').toBeLessThan(changes[0]!);
    expect([spatial!.preserve, spatial!.ridge]).toEqual([chosen, spatial!.choices.ridge!.chosen]);
  });

  it('needs statistics of their own', async () => {
    const ridge = { ...PER_STAGE(0.1), text: 'auto' } as const;
    await expect(fused({ ridge, statistics: 'fused' })).rejects.toThrow(
      "ridge text: auto needs statistics of the concepts' own models, got fused",
    );
  });
});

describe('features', () => {
  const spatial = { stages: ['spatial'] } as const;

  it('of contrast 1 are the prompted rows: what guidance shows beside them does not count', async () => {
    // With the steps of guidance 1 the same latents are visited, so the rows are the same.
    const [one, plain] = [
      await fused({ ...spatial, contrast: 1, guidanceScale: 1.000001, preserve: PER_STAGE(0) }, ['maple']),
      await fused({ ...spatial, guidanceScale: 1, preserve: PER_STAGE(0) }, ['maple']),
    ];
    for (const [key, { delta }] of plain.layers)
      expect(far(one.layers.get(key)!.delta, delta), key).toBeLessThan(1e-3);
    const more = await fused({ ...spatial, contrast: 3, guidanceScale: 1.000001, preserve: PER_STAGE(0) }, [
      'maple',
      'river',
    ]);
    const less = await fused({ ...spatial, contrast: 1, guidanceScale: 1.000001, preserve: PER_STAGE(0) }, [
      'maple',
      'river',
    ]);
    const changed = [...less.layers].filter(
      ([key, { delta }]) => far(more.layers.get(key)!.delta, delta) > 1e-4,
    );
    expect(changed.length).toBeGreaterThan(0);
  });

  it('are collected at any size the base can draw, square or not', async () => {
    const { report } = await fused({ ...spatial, size: { width: 64, height: 32 } }, ['maple']);
    expect(report.layers.length).toBeGreaterThan(0);
    const odd = planFusion({
      base,
      concepts: [{ concept: await loadConcept(files.maple) }],
      options: { size: { width: 100, height: 64 } },
    });
    await expect(odd).rejects.toThrow(UsageError);
    await expect(odd).rejects.toThrow(/size: expected multiples of \d+ for this base, got 100x64/);
  });

  it('has no more steps than the base was trained with, where anything is denoised', async () => {
    const config = { ...base.schedule.config, num_train_timesteps: 10 };
    const plan = (options: Partial<FusionOptions>) =>
      planFusion({
        base: { ...base, schedule: { ...base.schedule, config } },
        concepts: [concept],
        options,
      });
    const concept = { concept: await loadConcept(files.maple) };
    await expect(plan({ steps: 20 })).rejects.toThrow(/steps: expected a whole number from 1 to 10, got 20/);
    await expect(plan({ steps: 20, stages: ['text', 'cross'] })).resolves.toBeDefined();
  });
});

describe('refine', () => {
  it("moves the UNet towards the concepts' own pictures, at the same ranks, and measures what became of the layers", async () => {
    const seen: string[] = [];
    const request = {
      base,
      concepts: [{ concept: await loadConcept(files.maple) }],
      preserveCaptions: ['a tree'],
    };
    const [plain, refined] = [
      await fuse({ ...request, options: { steps: 1, runs: 1 } }),
      await fuse({
        ...request,
        options: { steps: 1, runs: 1, refine: 2 },
        onProgress: ({ action, done, total }) => seen.push(`${action} ${done === total}`),
      }),
    ];
    expect(refined.report.refinement!.losses).toHaveLength(2);
    expect(plain.report.refinement).toBeNull();
    for (const [key, { delta, stage }] of refined.layers) {
      const before = plain.layers.get(key)!.delta;
      expect(rankOf(delta), key).toBe(rankOf(before));
      const moved = far(delta, before);
      if (stage === 'text') expect(moved, key).toBeLessThan(1e-12);
      else expect(moved, key).toBeGreaterThan(1e-9);
    }
    const own = (fusion: Fusion) => fusion.report.layers.filter(({ stage }) => stage === 'spatial');
    expect(own(refined).map(({ loss }) => loss)).not.toEqual(own(plain).map(({ loss }) => loss));
    expect(seen.at(-1)).toBe('refine true');
    expect(seen.filter((entry) => entry.endsWith('true'))).toHaveLength(1);
  });
});
