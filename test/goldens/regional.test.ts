/** Region-rewritten cross-attention and the whole regional pipeline against the published Mix-of-Show code. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readBytes } from '../../src/formats/raw-tensor.ts';
import { openT2iAdapter } from '../../src/models/adapter/open.ts';
import { levelSizes } from '../../src/models/unet/structure.ts';
import { GuidedRows } from '../../src/sampling/guided-rows.ts';
import { adapterFeatures, strengthMap } from '../../src/sampling/guides.ts';
import { type Box, coveredCells, type Region } from '../../src/sampling/region.ts';
import { sharePicture } from '../../src/sampling/region-shares.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { type SourceContexts, UnetDenoiser } from '../../src/sampling/unet-denoiser.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { mergedEdlora } from '../support/golden-edlora.ts';
import { GoldenTensors } from '../support/golden-tensors.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens/tiny-random';
/** The bound for region-rewritten outputs; values are of order one. */
const TOLERANCE = { rtol: 0, atol: 1e-4 };

type BoxList = [number, number, number, number];
interface RegionCase {
  height: number;
  width: number;
  timestep: number;
  boxes_fraction_h0_w0_h1_w1: BoxList[];
  pixel_to_feature: { feature_hw: [number, number]; boxes_start_end_exclusive: BoxList[] }[];
}
const box = ([top, left, bottom, right]: BoxList): Box => ({ top, left, bottom, right });
const region = (edges: BoxList): Region => ({ prompt: '', shape: { kind: 'box', box: box(edges) } });

const { cases } = goldenJson<{ cases: Record<string, RegionCase> }>(FOLDER, 'unet_region.json');
const { alpha } = goldenJson<{ alpha: number }>(FOLDER, 'edlora_golden.json');

/** [negative for every layer, positive] */
function contexts(golden: GoldenTensors, name: string): SourceContexts {
  const positive = golden.tensor(`${name}_positive`);
  const negative = golden.tensor(`${name}_negative`);
  const layers = positive.shape[0]!;
  const data = new Float32Array(positive.data.length);
  for (let layer = 0; layer < layers; layer++) data.set(negative.data, layer * negative.data.length);
  return [data, positive.data].map((own) => ({ context: float32([1, ...positive.shape], own) }));
}

describe('boxes', () => {
  it.each(Object.entries(cases))('%s are rounded inwards at every resolution', (_, golden) => {
    for (const { feature_hw, boxes_start_end_exclusive } of golden.pixel_to_feature) {
      golden.boxes_fraction_h0_w0_h1_w1.forEach((edges, i) => {
        const { top, left, bottom, right } = box(edges);
        const rows = coveredCells(top, bottom, feature_hw[0]);
        const cols = coveredCells(left, right, feature_hw[1]);
        expect([rows[0], cols[0], rows[1], cols[1]]).toEqual(boxes_start_end_exclusive[i]);
      });
    }
  });
});

/** One picture, guided. */
const rows = new GuidedRows(1, { scale: 2 });

describe('one UNet pass with regions', () => {
  let merged: Awaited<ReturnType<typeof mergedEdlora>>;
  let golden: GoldenTensors;
  let unet: UnetDenoiser;
  beforeAll(async () => {
    merged = await mergedEdlora(alpha);
    golden = await GoldenTensors.open(FOLDER, 'unet_region.safetensors');
    unet = new UnetDenoiser(merged.base, merged.deltas);
  });
  afterAll(() => unet.dispose());

  async function predict(
    sample: Tensor<Float32Array>,
    timestep: number,
    boxes: readonly BoxList[],
    features: Record<string, Tensor> = {},
  ): Promise<Float32Array> {
    const [, , latentHeight, latentWidth] = sample.shape as [number, number, number, number];
    const sources = [contexts(golden, 'ctx'), ...boxes.map((_, i) => contexts(golden, `region_${i}`))];
    const tokens = sources.map(([text]) => text!.context.shape[2]!);
    const levels = levelSizes(merged.base.parts.unet.config, latentHeight, latentWidth);
    const { layout, feeds } = sharePicture(boxes.map(region), tokens, levels, false);
    const size = { rows: rows.count, latentHeight, latentWidth };
    const adapterFeatures = Object.keys(features).length > 0;
    await unet.load({ ...size, layout, adapterFeatures, controlResiduals: false });
    const texts = await unet.keysValues(sources, rows);
    return unet.predict({ ...texts, ...feeds, ...features, sample, timestep: rows.filled(timestep) });
  }

  it.each(Object.entries(cases))('%s', async (name, { timestep, boxes_fraction_h0_w0_h1_w1: boxes }) => {
    const sample = golden.tensor(name.replace(/[^/]+$/, 'sample'));
    expect(await predict(sample, timestep, boxes)).toBeAllClose(golden.values(`${name}/out`), TOLERANCE);
    const none = golden.values(name.replace(/[^/]+$/, 'none/out'));
    expect(await predict(sample, timestep, [])).toBeAllClose(none, TOLERANCE);
  });

  it('a region over the whole picture equals its prompt alone', async () => {
    const [name, { timestep }] = Object.entries(cases)[0]!;
    const sample = golden.tensor(name.replace(/[^/]+$/, 'sample'));
    const everywhere = await predict(sample, timestep, [[0, 0, 1, 1]]);
    const { layout, feeds } = sharePicture(
      [],
      [contexts(golden, 'region_0')[1]!.context.shape[2]!],
      levelSizes(merged.base.parts.unet.config, sample.shape[2]!, sample.shape[3]!),
      false,
    );
    await unet.load({
      rows: rows.count,
      latentHeight: sample.shape[2]!,
      latentWidth: sample.shape[3]!,
      layout,
      adapterFeatures: false,
      controlResiduals: false,
    });
    const alone = await unet.predict({
      ...(await unet.keysValues([contexts(golden, 'region_0')], rows)),
      ...feeds,
      sample,
      timestep: rows.filled(timestep),
    });
    expect(everywhere).toBeAllClose(alone, { rtol: 0, atol: 1e-5 });
  });

  it('with three regions and adapter features together', async () => {
    const adapter = await GoldenTensors.open(FOLDER, 't2i_adapter_golden.safetensors');
    let compared = 0;
    for (const [name, { boxes_fraction_h0_w0_h1_w1: boxes }] of Object.entries(cases)) {
      const prefix = name.replace(/\/[^/]+$/, '');
      const expected = `${prefix}/unet_out_with_${name.slice(prefix.length + 1)}_regions_edlora`;
      if (!adapter.has(expected)) continue;
      const features: Record<string, Tensor> = {};
      for (let i = 0; adapter.has(`${prefix}/feature_${i}`); i++) {
        features[`adapter.${i}`] = adapter.tensor(`${prefix}/feature_${i}`);
      }
      const sample = adapter.tensor(`${prefix}/sample`);
      const output = await predict(sample, adapter.values('timestep')[0]!, boxes, features);
      expect(output).toBeAllClose(adapter.values(expected), TOLERANCE);
      compared++;
    }
    expect(compared).toBeGreaterThan(0);
  });
});

interface PipelineGolden {
  height: number;
  width: number;
  steps: number;
  guidance: number;
  alpha: number;
  cases: Record<
    string,
    {
      context_prompt: string;
      negative_prompt: string;
      regions: { prompt: string; negative: string; box_fraction_h0_w0_h1_w1: BoxList }[];
      keypose_weight: number | null;
      sketch_weight: number | null;
      seed: number;
    }
  >;
  adapter_region_weights: {
    base: number;
    regions_px_h0_w0_h1_w1_weight: [BoxList, number][];
  };
}

describe('the published regional pipeline', () => {
  const golden = goldenJson<PipelineGolden>(FOLDER, 'regional_pipeline.json');
  const { width, height } = golden;
  let pipeline: Pipeline;
  let file: Awaited<ReturnType<typeof openTensorFile>>;
  let tensors: GoldenTensors;
  beforeAll(async () => {
    const { base, ...parts } = await mergedEdlora(golden.alpha);
    pipeline = await Pipeline.create(base, parts);
    file = await openTensorFile(goldenPath(FOLDER, 'regional_pipeline.safetensors'));
    tensors = await GoldenTensors.open(FOLDER, 'regional_pipeline.safetensors');
  });
  afterAll(() => pipeline.dispose());

  const picture = () => ({ width, height, data: readBytes(file.tensors.get('condition_image_uint8')!) });

  it.each(Object.entries(golden.cases))('%s', async (name, run) => {
    const adapter = await openT2iAdapter(goldenPath(FOLDER, 't2i_adapter'));
    const weights = [run.keypose_weight, run.sketch_weight].filter((weight) => weight !== null);
    const [drawn] = await pipeline.sample({
      prompt: run.context_prompt,
      negativePrompt: run.negative_prompt,
      regions: run.regions.map(({ prompt, negative, box_fraction_h0_w0_h1_w1: edges }) => ({
        ...region(edges),
        prompt,
        negativePrompt: negative,
      })),
      width,
      height,
      steps: golden.steps,
      guidanceScale: golden.guidance,
      seed: run.seed,
      adapters: weights.map((strength) => ({ adapter, picture: picture(), strength })),
    });
    // README of the goldens, end to end under guidance: 2e-3.
    const expected = tensors.values(`${name}/final_latents`);
    expect(drawn!.latents.data).toBeAllClose(expected, { rtol: 0, atol: 2e-3 });
    const image = file.tensors.get(`${name}/image_uint8`);
    if (image !== undefined) expect(drawn!.data).toBeAllClose(readBytes(image), { rtol: 0, atol: 1 });
  });

  it('weighs adapter features by region', async () => {
    const adapter = await openT2iAdapter(goldenPath(FOLDER, 't2i_adapter'));
    const { base, regions_px_h0_w0_h1_w1_weight: regions } = golden.adapter_region_weights;
    const strengths = regions.map(([[top, left, bottom, right], strength]) => ({
      shape: region([top / height, left / width, bottom / height, right / width]).shape,
      strength,
    }));
    const features = await adapterFeatures(adapter, picture());
    features.forEach(({ shape, data }, i) => {
      const map = strengthMap(base, strengths, shape[2]!, shape[3]!);
      expect(map).toBeAllClose(tensors.values(`adapter_weight_map_${i}`), { rtol: 0, atol: 0 });
      const weighted = data.map((value, j) => value * map[j % map.length]!);
      expect(weighted).toBeAllClose(tensors.values(`adapter_weighted_feature_${i}`), {
        rtol: 2e-5,
        atol: 2e-5,
      });
    });
  });
});
