/** Refinement of a base that predicts v (SD 2.x), whose latents are smaller than it was trained at. */
import { describe, expect, it } from 'vitest';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../../src/concepts/fit.ts';
import { PromptReading } from '../../../src/fusion/refine/prompt-reading.ts';
import { refine } from '../../../src/fusion/refine/refine.ts';
import { scale } from '../../../src/linalg/low-rank.ts';
import { openCheckpoint } from '../../../src/models/checkpoint.ts';
import { within } from '../../../src/models/families/layer-table.ts';
import { crossAttentionNames } from '../../../src/models/unet/structure.ts';
import { executionContext } from '../../../src/runtime/execution-context.ts';
import { checkpointSchedule } from '../../../src/sampling/checkpoint-schedule.ts';
import { TorchGenerator } from '../../../src/tensor/random.ts';
import { float32, sizeOf } from '../../../src/tensor/tensor.ts';
import { familiesPath } from '../../support/goldens.ts';
import { writeRandomConcept } from '../../support/random-concept.ts';
import { scratch } from '../../support/scratch.ts';

describe('refinement by v', () => {
  it('comes closer to the teacher', async () => {
    const base = await openCheckpoint(familiesPath('sd2', 'model'));
    const schedule = checkpointSchedule(base);
    expect(schedule.predictionType).toBe('v_prediction');
    const file = scratch('maple.safetensors');
    await writeRandomConcept(file, base, { words: ['<maple>'], seed: 3 });
    const own = within('unet', await conceptDeltas(base, await loadConcept(file)));
    const { config } = base.parts.unet;
    const shape = [1, crossAttentionNames(config).length, base.parts.maxPositions, config.crossAttentionDim];
    const [text, none] = [1, 2].map(
      (seed) => new PromptReading({ context: float32(shape, new TorchGenerator(seed).randn(sizeOf(shape))) }),
    ) as [PromptReading, PromptReading];
    const { losses } = await refine({
      base,
      size: { height: 8, width: 8 },
      schedule,
      start: new Map([...own].map(([name, delta]) => [name, scale(delta, 0.5)])),
      noPrompt: { own: none, fused: none },
      concepts: [{ name: 'maple', deltas: own, prompts: [{ own: text, fused: text }] }],
      preserved: null,
      options: {
        steps: 4,
        batch: 1,
        picturesPerPass: 1,
        denoisingSteps: 1,
        runs: 1,
        preserve: 0,
        learningRate: 0.2,
      },
      execution: executionContext({ threads: 1 }),
    });
    expect(losses.at(-1)).toBeLessThan(0.7 * losses[0]!);
  });
});
