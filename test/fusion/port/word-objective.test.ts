/** What shared embeddings are moved by: the objective's own gradient, through the text encoders, and where it leads. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Concept } from '../../../src/concepts/concept.ts';
import { conceptName } from '../../../src/concepts/concept.ts';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../../src/concepts/fit.ts';
import { readFloat32 } from '../../../src/formats/raw-tensor.ts';
import { captionTerms } from '../../../src/fusion/port/normal-equations.ts';
import { type PortProgress, portable } from '../../../src/fusion/port/port.ts';
import { PORT_DEFAULTS } from '../../../src/fusion/port/port-options.ts';
import { PortTexts } from '../../../src/fusion/port/port-texts.ts';
import { withSharedWords } from '../../../src/fusion/port/shared-words.ts';
import { type ObjectiveParts, WordObjective } from '../../../src/fusion/port/word-objective.ts';
import { WordsInTexts } from '../../../src/fusion/port/words-in-texts.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../../src/models/lora.ts';
import { Pace } from '../../../src/pace.ts';
import { executionContext } from '../../../src/runtime/execution-context.ts';
import { GraphMatmulEngine } from '../../../src/runtime/matmul-engine.ts';
import { TorchGenerator } from '../../../src/tensor/random.ts';
import { familiesPath, goldenPath } from '../../support/goldens.ts';
import { writeRandomConcept } from '../../support/random-concept.ts';
import { scratch } from '../../support/scratch.ts';
import { vectorsOf } from '../../support/tokens.ts';

const TEMPLATES = ['photo of a {}', '{}', 'a {} on a table', 'two of them, {} and a dog'];
const CAPTIONS = ['photo of a dog', ''];
/** Of central differences, as a share of the embeddings' size. */
const STEP = 0.02;

let base: Checkpoint;
let concept: Concept;
let deltas: ModelDeltas;
const engine = new GraphMatmulEngine({ threads: 1 });
beforeAll(async () => {
  base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
  concept = await loadConcept(goldenPath('goldens/tiny-random/edlora.pth'));
  deltas = await conceptDeltas(base, concept);
});
afterAll(() => engine.dispose());

/** The slope of the objective along a random direction of all words: as its gradient tells it, and as its values do. */
async function slopes(base: Checkpoint, concept: Concept, deltas: ModelDeltas) {
  const execution = executionContext({ threads: 1 });
  const given = { names: [conceptName(concept)], templates: TEMPLATES, captions: CAPTIONS };
  const texts = new PortTexts(base, deltas, [concept], given, execution);
  const parts: ObjectiveParts = {
    base,
    deltas,
    texts,
    captions: await captionTerms(await texts.captions(), engine.multiply),
    options: PORT_DEFAULTS,
    pace: new Pace(undefined),
    multiply: engine.multiply,
  };
  const words = new WordsInTexts(parts, [withSharedWords(concept)], execution);
  const objective = await WordObjective.create(parts, await words.features());
  const here = await objective.at(await words.features());
  const gradients = await words.gradients(here.gradient);
  const random = new TorchGenerator(7);
  const encoders = [...words.rows.values()].map((rows, e) => {
    const start = rows.slice();
    const size = Math.sqrt(start.reduce((sum, value) => sum + value * value, 0) / start.length);
    const direction = random.randn(start.length).map((value) => value * size);
    expect(gradients[e]).toHaveLength(start.length);
    return { rows, start, direction, gradient: gradients[e]! };
  });
  const along = async (step: number): Promise<number> => {
    for (const { rows, start, direction } of encoders) {
      rows.set(start.map((value, i) => value + step * direction[i]!));
    }
    return (await objective.at(await words.features())).loss;
  };
  const measured = ((await along(STEP)) - (await along(-STEP))) / (2 * STEP);
  await words.dispose();
  const told = encoders.map(({ gradient, direction }) =>
    gradient.reduce((sum, value, i) => sum + value * direction[i]!, 0),
  );
  return { told, measured };
}

describe('the objective of shared embeddings', () => {
  it('has the gradient that its values have along a random direction', async () => {
    const { told, measured } = await slopes(base, concept, deltas);
    expect(told).toHaveLength(1);
    expect(Math.abs(told[0]!)).toBeGreaterThan(1e-3);
    expect(measured / told[0]!).toBeCloseTo(1, 2);
  });

  it('goes through two text encoders', async () => {
    const sdxl = await openCheckpoint(familiesPath('sdxl', 'model'));
    const file = scratch('two.safetensors');
    await writeRandomConcept(file, sdxl, { words: ['<one>', '<two>'], seed: 3 });
    const other = await loadConcept(file);
    const { told, measured } = await slopes(sdxl, other, await conceptDeltas(sdxl, other));
    expect(told).toHaveLength(2);
    for (const half of told) expect(Math.abs(half)).toBeGreaterThan(1e-5);
    expect(measured / (told[0]! + told[1]!)).toBeCloseTo(1, 2);
  });

  it('judges held-out templates as the solve at full rank does, and finds words that keep more', async () => {
    const seen: PortProgress[] = [];
    const port = (steps: number) =>
      portable({
        base,
        deltas,
        concepts: [concept],
        captions: CAPTIONS,
        options: { rank: 1024, steps, templates: TEMPLATES },
        threads: 1,
        onProgress: (progress) => seen.push(progress),
      });
    const mean = await port(0);
    const kept = ({ layers }: typeof mean): number =>
      layers.reduce((sum, layer) => sum + layer.kept, 0) / layers.length;
    expect(mean.wordChecks).toEqual([]);
    seen.length = 0;
    const moved = await port(6);
    const { contextCount } = base.parts.layers;
    expect(seen.map(({ action, done, total }) => `${action} ${done} of ${total}`)).toEqual([
      ...Array.from({ length: 6 }, (_, i) => `words ${i + 1} of 6`),
      ...Array.from({ length: contextCount }, (_, i) => `answers ${i + 1} of ${contextCount}`),
    ]);
    expect(moved.wordChecks.map(({ step }) => step)).toEqual([0, 5, 6]);
    const [first, ...later] = moved.wordChecks.map(({ error }) => error);
    expect(first).toBeCloseTo(1 - kept(mean), 4);
    const least = Math.min(...later);
    expect(least).toBeLessThan(0.95 * first!);
    expect(kept(moved)).toBeGreaterThan(kept(mean));
    const vectors = ({ concepts }: typeof mean) =>
      concepts[0]!.tokens.map((token) => readFloat32(vectorsOf(token)));
    expect(vectors(moved)).not.toEqual(vectors(mean));
  });

  it('is descended unless asked not to, and stops when asked between two steps', async () => {
    const stop = new AbortController();
    const steps: number[] = [];
    const asked = portable({
      base,
      deltas,
      concepts: [concept],
      captions: CAPTIONS,
      options: { templates: TEMPLATES },
      threads: 1,
      signal: stop.signal,
      onProgress: ({ action, done, total }) => {
        expect([action, total]).toEqual(['words', 40]);
        steps.push(done);
        if (done === 2) stop.abort(new Error('enough'));
      },
    });
    await expect(asked).rejects.toThrow('enough');
    expect(steps).toEqual([1, 2]);
  });
});
