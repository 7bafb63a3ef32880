/** A ported model that follows its concepts' own: whose predictions it is held to, and what it may change. */
import { beforeAll, describe, expect, it } from 'vitest';
import { type Concept, conceptName } from '../../../src/concepts/concept.ts';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../../src/concepts/fit.ts';
import { PORT_DEFAULTS } from '../../../src/fusion/port/port-options.ts';
import {
  type PortToRefine,
  portRefineOptions,
  portRefineWork,
  refinePort,
} from '../../../src/fusion/port/refine-port.ts';
import { withSharedWords } from '../../../src/fusion/port/shared-words.ts';
import { latentSizeOf } from '../../../src/fusion/prompt-reader.ts';
import { REFINE_DEFAULTS } from '../../../src/fusion/refine/refine-options.ts';
import type { RefineProgress } from '../../../src/fusion/refine/refine-request.ts';
import { scale } from '../../../src/linalg/low-rank.ts';
import type { Checkpoint } from '../../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../../src/models/lora.ts';
import { executionContext } from '../../../src/runtime/execution-context.ts';
import { smallFusion } from '../../support/small-fusion.ts';

const TEMPLATES = ['photo of a {}', '{}', 'a {} on a table', 'two of them, {} and a dog'];
const QUICK = {
  ...REFINE_DEFAULTS,
  steps: 6,
  checkSteps: 3,
  batch: 2,
  picturesPerPass: 2,
  denoisingSteps: 2,
  runs: 2,
  preserve: 0,
};

let base: Checkpoint;
let concept: Concept;
let deltas: ModelDeltas;
beforeAll(async () => {
  const small = await smallFusion();
  base = small.base;
  concept = await loadConcept(small.concepts.maple);
  deltas = await conceptDeltas(base, concept);
});

const request = (changed: Partial<PortToRefine>): PortToRefine => ({
  base,
  teachers: [{ name: conceptName(concept), deltas }],
  native: [concept],
  ported: { deltas, concepts: [concept] },
  size: latentSizeOf(base),
  captions: [],
  templates: TEMPLATES,
  options: QUICK,
  execution: executionContext({ threads: 1 }),
  ...changed,
});

describe('refining a ported model', () => {
  it('has nothing to do where it is the concept’s own', async () => {
    const { checks } = await refinePort(request({ options: { ...QUICK, guidanceScale: 1, steps: 1 } }));
    expect(checks[0]!.error).toBeLessThan(1e-8);
  });

  it('sees what shared words alone lose, and brings some of it back in the UNet alone', async () => {
    const ported = { deltas, concepts: [withSharedWords(concept)] };
    const { deltas: refined, checks } = await refinePort(request({ ported }));
    expect(checks.map(({ step }) => step)).toEqual([0, 3, 6]);
    const [start, ...later] = checks.map(({ error }) => error);
    expect(start).toBeGreaterThan(1e-6);
    expect(Math.min(...later)).toBeLessThan(start!);
    expect([...refined.keys()]).toEqual([...deltas.keys()]);
    for (const [id, delta] of refined) {
      expect(delta === deltas.get(id), id).toBe(!id.startsWith('unet:'));
    }
  });

  it('takes the steps that are told beforehand', async () => {
    const options = { ...PORT_DEFAULTS, refine: 2, templates: TEMPLATES };
    const seen: { done: number; total: number }[] = [];
    const whole = request({
      captions: ['photo of a dog', 'a cat'],
      options: portRefineOptions(base, latentSizeOf(base), options),
      execution: executionContext<RefineProgress>({ threads: 1 }, (progress) => seen.push(progress)),
    });
    await refinePort(whole);
    const { units } = portRefineWork(whole, options, whole.teachers.length);
    expect(seen).toHaveLength(units);
    expect(seen.at(-1)).toMatchObject({ done: units, total: units });
    expect(portRefineWork(whole, { ...options, refine: 0 }, 1)).toEqual({ units: 0, passes: 0 });
  });

  it('reads each teacher with its own changes, and captions with none', async () => {
    const weak = new Map([...deltas].map(([id, delta]) => [id, scale(delta, 0.1)]));
    const options = { ...QUICK, steps: 1, preserve: 0.5 };
    const alike = request({
      options,
      captions: ['photo of a dog', 'a cat'],
      ported: { deltas: weak, concepts: [concept] },
    });
    const { checks } = await refinePort(alike);
    const base = await refinePort({
      ...alike,
      teachers: [{ name: conceptName(concept), deltas: new Map() }],
      ported: { deltas: weak, concepts: [concept] },
    });
    expect(checks[0]!.error).toBeGreaterThan(4 * base.checks[0]!.error);
  });
});
