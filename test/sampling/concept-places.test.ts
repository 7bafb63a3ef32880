/** A concept acts where it is placed, exactly; everywhere else the base is as it was. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { type LowRank, lowRank } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import type { Layer, LayerId } from '../../src/models/families/layer-table.ts';
import { deltaFeeds, deltaRanks, type ModelDeltas } from '../../src/models/lora.ts';
import { masksInput } from '../../src/models/unet/factor-places.ts';
import { attentionPlaces } from '../../src/models/unet/structure.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { conceptPlacement, conceptStrengths } from '../../src/sampling/concept-places.ts';
import type { Region } from '../../src/sampling/region.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, sizeOf, type Tensor } from '../../src/tensor/tensor.ts';
import { goldenPath } from '../support/goldens.ts';

let base: Checkpoint;
beforeAll(async () => {
  base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
});

/** A change of rank 2 of the layers that are wanted. */
function change(seed: number, wanted: (layer: Layer) => boolean = () => true, size = 0.05): ModelDeltas {
  const random = new TorchGenerator(seed);
  const factor = (rows: number, cols: number) => {
    const values = random.randn(rows * cols);
    return matrix(
      rows,
      cols,
      Float64Array.from(values, (value) => Math.fround(size * value)),
    );
  };
  const deltas = new Map<LayerId, LowRank>();
  for (const layer of base.parts.layers) {
    if (wanted(layer)) deltas.set(layer.id, lowRank(factor(layer.m, 2), factor(2, layer.n)));
  }
  return deltas;
}

/** All that a region can keep to itself. */
const placeable = ({ layerName }: Layer): boolean => !layerName.startsWith('time_embedding');

const HALF: Region['shape'] = { kind: 'box', box: { top: 0, left: 0, bottom: 1, right: 0.5 } };
const REST: Region['shape'] = { kind: 'box', box: { top: 0, left: 0.5, bottom: 1, right: 1 } };
const ALL: Region['shape'] = { kind: 'box', box: { top: 0, left: 0, bottom: 1, right: 1 } };
const REQUEST = { width: 64, height: 64, steps: 2, guidanceScale: 3, seed: 3, negativePrompt: 'a dog' };
const CAT = 'a photo of a cat';

describe('a picture', () => {
  const pipelines: Pipeline[] = [];
  afterAll(() => Promise.all(pipelines.map((pipeline) => pipeline.dispose())));
  const draw = async (parts: PipelineParts, request: object): Promise<Float32Array> => {
    const pipeline = await Pipeline.create(base, parts);
    pipelines.push(pipeline);
    const [picture] = await pipeline.sample({ prompt: CAT, ...REQUEST, ...request });
    return picture!.latents.data;
  };
  const distance = (a: Float32Array, b: Float32Array): number =>
    Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));

  it('with one region over all of it is that of the concept alone', async () => {
    const concept = change(1);
    const alone = await draw({ deltas: concept }, {});
    const regions = [{ prompt: CAT, negativePrompt: 'a dog', shape: ALL, concepts: [{ concept: 0 }] }];
    const placed = await draw({ placedDeltas: [concept] }, { prompt: '', concepts: [], regions });
    expect(placed).toBeAllClose(alone, { rtol: 0, atol: 1e-5 });
    const plain = await draw({}, {});
    expect(distance(alone, plain)).toBeGreaterThan(0.01);
  });

  it('whose parts all have the concept, each for itself, is the same again', async () => {
    const concept = change(1, placeable);
    // Strengths that differ by too little to be seen keep the masks in use.
    const uses = [1, 1 + 1e-7].map((unetStrength) => [{ concept: 0, unetStrength }]);
    const regions = [HALF, REST].map((shape, i) => ({
      prompt: CAT,
      negativePrompt: 'a dog',
      shape,
      concepts: uses[i],
    }));
    // Where boxes cover no whole cell, the context rules.
    const placed = await draw({ placedDeltas: [concept] }, { prompt: '', concepts: uses[0], regions });
    const bare = regions.map(({ concepts: _, ...region }) => region);
    const everywhere = await draw({ deltas: concept }, { prompt: '', regions: bare });
    expect(placed).toBeAllClose(everywhere, { rtol: 1e-5 });
  });

  it('is the base’s where its concepts have strength 0, or are named nowhere', async () => {
    const concept = change(1);
    const plain = await draw({}, { regions: [{ prompt: 'a dog', shape: HALF }] });
    for (const concepts of [[], [{ concept: 0, unetStrength: 0, textEncoderStrength: 0 }]]) {
      const regions = [{ prompt: 'a dog', shape: HALF, concepts }];
      const placed = await draw({ placedDeltas: [concept] }, { concepts: [], regions });
      expect(placed).toBeAllClose(plain, { rtol: 0, atol: 1e-6 });
    }
  });

  it('reads each text with the concepts of its own region', async () => {
    const text = (seed: number) =>
      change(seed, ({ component, role }) => component === 'text_encoder' || role === 'context');
    const [one, two] = [text(1), text(2)];
    const regions = (both: boolean) =>
      [HALF, REST].map((shape, i) => ({
        prompt: CAT,
        shape,
        concepts: both ? [{ concept: 0 }, { concept: 1 }] : [{ concept: i }],
      }));
    const parts = { placedDeltas: [one, two] };
    const own = await draw(parts, { prompt: '', concepts: [], regions: regions(false), steps: 1 });
    const left = await draw(
      { deltas: one },
      { prompt: '', regions: regions(true).map(({ prompt, shape }) => ({ prompt, shape })), steps: 1 },
    );
    const summed = await draw(parts, { prompt: '', concepts: [], regions: regions(true), steps: 1 });
    expect(distance(own, left)).toBeGreaterThan(1e-3);
    expect(distance(own, summed)).toBeGreaterThan(1e-3);
    // A region of the size of the picture, read by the second concept alone.
    const second = [{ prompt: CAT, shape: ALL, concepts: [{ concept: 1 }] }];
    const placed = await draw(parts, { prompt: '', concepts: [{ concept: 0 }], regions: second, steps: 1 });
    const alone = await draw({ deltas: two }, { steps: 1, negativePrompt: '' });
    expect(placed).toBeAllClose(alone, { rtol: 0, atol: 1e-5 });
  });
});

describe('factors under masks', () => {
  const size = { batch: 1, latentHeight: 8, latentWidth: 8, tokens: 5 };
  const first = () => `${attentionPlaces(base.parts.unet.config)[0]!.path}.attn1.to_q`;

  /** Rows of the first attention's queries, before any attention mixed positions, and the prediction. */
  async function run(deltas: ModelDeltas, mask: ((n: number) => number) | null) {
    const { weights, config, layers } = base.parts.unet;
    const own = new Map([...deltas].map(([id, delta]) => [id.slice(id.indexOf(':') + 1), delta]));
    const loraRanks = deltaRanks(own);
    const columns = new Map([...loraRanks].map(([name, rank]) => [name, Array<number>(rank).fill(1)]));
    const { graph, probes } = buildUnet(weights, config, size, {
      layerwiseContext: false,
      loraRanks,
      probes: { outputs: [first()] },
      places: mask === null ? null : { masks: 2, columns },
    });
    const random = new TorchGenerator(5);
    const feeds: Record<string, Tensor> = Object.fromEntries(
      ['sample', 'timestep', 'encoder_hidden_states'].map((name) => {
        const { shape } = graph.inputs.find((input) => input.name === name)!;
        return [name, float32(shape, random.randn(sizeOf(shape)))];
      }),
    );
    feeds.timestep = float32([1], [500]);
    for (const { name, shape } of graph.inputs) {
      const level = [0, 1, 2, 3].find((at) => name === masksInput(at));
      if (level === undefined) continue;
      const rows = shape[1]!;
      const values = Array.from({ length: rows }, (_, n) => [1, mask!(n / rows)]).flat();
      feeds[name] = float32(shape, values);
    }
    const session = await defaultRuntime().load(graph, 'once');
    const outputs = await session.run({ ...feeds, ...deltaFeeds(own, loraRanks, layers) });
    await session.dispose();
    return {
      queries: outputs[probes.outputs.get(first())!]!.data as Float32Array,
      prediction: outputs.noise_pred!.data as Float32Array,
    };
  }
  const unet = (wanted: (layer: Layer) => boolean) =>
    change(7, (layer) => layer.component === 'unet' && wanted(layer), 0.3);

  it('change nothing outside', async () => {
    const attention = unet(({ role }) => role === 'self-attention');
    const [plain, upper] = [await run(new Map(), null), await run(attention, (at) => (at < 0.5 ? 1 : 0))];
    const half = plain.queries.length / 2;
    expect(upper.queries.subarray(half)).toEqual(plain.queries.subarray(half));
    const whole = await run(attention, null);
    expect(upper.queries.subarray(0, half)).toBeAllClose(whole.queries.subarray(0, half), { rtol: 1e-5 });
    expect(upper.queries.subarray(0, half)).not.toEqual(plain.queries.subarray(0, half));
  });

  it.each([
    ['linear layers', ({ kernel, role }: Layer) => kernel === null && role !== 'time' && role !== 'context'],
    ['convolutions of every size and stride', ({ kernel }: Layer) => kernel !== null],
    [
      'what residual blocks make of the timestep',
      ({ layerName }: Layer) => layerName.endsWith('time_emb_proj'),
    ],
  ])('count as their masks say: %s', async (_, wanted) => {
    const deltas = unet((layer) => placeable(layer) && wanted(layer));
    expect(deltas.size).toBeGreaterThan(3);
    const scaled = new Map(
      [...deltas].map(([id, { up, down }]) => [
        id,
        lowRank(
          matrix(
            up.rows,
            up.cols,
            up.data.map((value) => 0.25 * value),
          ),
          down,
        ),
      ]),
    );
    const [masked, quarter] = [await run(deltas, () => 0.25), await run(scaled, null)];
    expect(masked.prediction).toBeAllClose(quarter.prediction, { rtol: 1e-4 });
    const [none, plain] = [await run(deltas, () => 0), await run(new Map(), null)];
    expect(none.prediction).toBeAllClose(plain.prediction, { rtol: 1e-4 });
    expect(masked.prediction).not.toBeAllClose(plain.prediction, { rtol: 1e-2 });
  });
});

describe('strengths', () => {
  it('are those of the context where a region says none, and whole without a word', () => {
    const regions = [{}, { concepts: [{ concept: 1, unetStrength: 0.5 }] }];
    expect(conceptStrengths({ regions }, 2).unet).toEqual([
      [1, 1, 0],
      [1, 1, 0.5],
    ]);
    const some = conceptStrengths({ concepts: [{ concept: 0, textEncoderStrength: 0 }], regions }, 2);
    expect(some.unet).toEqual([
      [1, 1, 0],
      [0, 0, 0.5],
    ]);
    expect(some.textEncoder[0]).toEqual([0, 0, 0]);
    expect(() => conceptStrengths({ concepts: [{ concept: 2 }], regions }, 2)).toThrow(UsageError);
    expect(() =>
      conceptStrengths({ concepts: [{ concept: 0, unetStrength: Number.NaN }], regions }, 2),
    ).toThrow('strength of a concept');
  });

  it('that are even over all that rules need no mask', () => {
    const strengths = [
      [1, 1, 1],
      [0, 0.5, 0.5],
      [0, 1, 0],
      [0, 0, 0],
    ];
    expect(conceptPlacement(strengths, [true, true, true])).toEqual({
      everywhere: [1, 0, 0, 0],
      placed: [1, 2],
    });
    expect(conceptPlacement(strengths, [false, true, true])).toEqual({
      everywhere: [1, 0.5, 0, 0],
      placed: [2],
    });
  });
});
