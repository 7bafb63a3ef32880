/**
 * One training step of each family against PyTorch: loss, and its gradients with respect to factors and to a new word's vector in
 * every text encoder.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import { type LayerId, layerId } from '../../src/models/families/layer-table.ts';
import { checkpointSchedule } from '../../src/sampling/checkpoint-schedule.ts';
import { noiseSchedule } from '../../src/sampling/noise-schedule.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { noisyBatch, type PredictionType, plainWeights } from '../../src/training/loss-weights.ts';
import { TrainingStep } from '../../src/training/step.ts';
import { relativeError } from '../support/close.ts';
import { familyJson, GOLDEN_FAMILIES } from '../support/golden-families.ts';
import { Golden } from '../support/golden-file.ts';
import { familiesPath } from '../support/goldens.ts';

/** float32 differs from float64 by 8e-5 at worst. */
const TOLERANCE = 1e-4;

interface Index {
  readonly token: string;
  readonly captions: readonly string[];
  readonly rank: number;
  readonly alpha: number;
  readonly cases: Readonly<Record<string, Case>>;
}
interface Case {
  readonly loss_float64: number;
  readonly target: PredictionType;
  readonly pooled: string;
  readonly gradients_exactly_zero: readonly string[];
  readonly grad_norms: Readonly<Record<string, number>>;
}

const steps: TrainingStep[] = [];
afterAll(async () => {
  for (const step of steps) await step.dispose();
});

const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));

describe.each(GOLDEN_FAMILIES)('%s', async (family) => {
  const index = familyJson<Index>(family, 'training.json');
  const golden = await Golden.open(familiesPath(family, 'training.safetensors'));
  const base = await openCheckpoint(familiesPath(family, 'model'));
  const encoders = [...base.parts.textEncoders];
  const row = (id: string): Float32Array => golden.values(`param/${id}.token_embedding_new_row`);
  const scale = index.alpha / index.rank;
  const factors = new Map<LayerId, { down: Tensor<Float32Array>; up: Tensor<Float32Array> }>();
  const named = new Map<LayerId, string>();
  for (const name of golden.file.tensors.keys()) {
    const [, component, layerName] = /^param\/(\w+)\.(.+)\.lora_A\.weight$/.exec(name) ?? [];
    if (component === undefined) continue;
    const down = golden.tensor(name);
    const up = golden.tensor(name.replace('lora_A', 'lora_B'));
    const matrix = ({ shape, data }: Tensor<Float32Array>) =>
      float32([shape[0]!, data.length / shape[0]!], data);
    const id = layerId(component, layerName!);
    factors.set(id, { down: matrix(down), up: { ...matrix(up), data: up.data.map((x) => x * scale) } });
    named.set(id, `${component}.${layerName}`);
  }
  const tokens = [
    {
      word: index.token,
      embeddings: new Map(encoders.map(([id]) => [id, float32Tensor(id, [1, row(id).length], row(id))])),
    },
  ];
  const vocabulary = bindConcepts(
    base.parts.tokenizers,
    [{ path: 'golden', format: 'ed-lora', tokens, layers: new Map(), metadata: new Map() }],
    1,
  );

  // One set of loaded graphs for all cases.
  const step = new TrainingStep(
    base,
    new Map(encoders.map(([id, { weights, config }]) => [id, new TokenEmbeddings(weights, config, row(id))])),
    1,
    {
      ranks: new Map([...factors.keys()].map((id) => [id, index.rank])),
      firstTrainedId: vocabulary.tokens[0]!.ids[0]!,
      layerwise: false,
      sharedPrefix: 0,
      attention: null,
      attentionWeight: 0,
      detachFirstToken: false,
      checkpointBlocks: false,
    },
  );
  steps.push(step);

  // Beside a case where transformers pools an added word stands what it would be at the end of the text.
  const cases = Object.keys(index.cases).filter((name) => !name.endsWith('_pooled_at_eos'));
  it.each(cases)('%s', async (name) => {
    const {
      loss_float64: loss,
      target,
      gradients_exactly_zero: zero,
      grad_norms: norms,
    } = index.cases[name]!;
    const [rows, channels, latentHeight, latentWidth] = golden.tensor('latents').shape as [
      number,
      number,
      number,
      number,
    ];
    const timesteps = [...golden.values('timesteps')];
    const prompts = index.captions.map((caption) => vocabulary.promptIds(caption));
    encoders.forEach(([id], e) => {
      expect(prompts.flatMap(([ids]) => ids![e]!)).toEqual([...golden.values(`${id}/input_ids`)]);
    });
    const result = await step.run(
      {
        latentHeight,
        latentWidth,
        timesteps,
        ...noisyBatch(
          noiseSchedule(checkpointSchedule(base)),
          golden.values('latents'),
          golden.values('noise'),
          timesteps,
          target,
        ),
        lossWeights: plainWeights(rows, channels, latentHeight * latentWidth),
        prompts,
        ...(golden.has('time_ids') ? { timeIds: golden.tensor('time_ids') } : {}),
      },
      factors,
    );
    expect(Math.abs(result.loss / loss - 1)).toBeLessThan(1e-5);
    let compared = 0;
    const check = (key: string, gradient: Float32Array): void => {
      const wanted = norms[key];
      if (wanted === undefined) return;
      compared++;
      if (zero.includes(key)) {
        expect(norm(gradient), key).toBe(0);
        return;
      }
      expect(Math.abs(norm(gradient) / wanted - 1), `norm of ${key}`).toBeLessThan(TOLERANCE);
      const stored = `${name}/grad/${key}`;
      if (golden.has(stored)) {
        expect(relativeError(gradient, golden.values(stored)), key).toBeLessThan(TOLERANCE);
      }
    };
    for (const [id, { down, up }] of result.factors) {
      check(`${named.get(id)}.lora_A.weight`, down);
      check(
        `${named.get(id)}.lora_B.weight`,
        up.map((x) => x * scale),
      );
    }
    for (const [id] of encoders) {
      const gradient = result.embeddings.get(id)!;
      expect(
        relativeError(gradient, golden.values(`${name}/grad/${id}.token_embedding_new_row`)),
      ).toBeLessThan(TOLERANCE);
    }
    expect(compared).toBe(Object.keys(norms).filter((key) => key.includes('lora_')).length);
  });
});
