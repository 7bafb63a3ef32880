/** Guiding pictures as the UNet takes them: features of T2I-Adapters, once; residuals of ControlNets, every step. */
import type { Picture } from '../formats/picture.ts';
import type { T2iAdapter } from '../models/adapter/open.ts';
import { buildT2iAdapter, featureOutput } from '../models/adapter/t2i-adapter.ts';
import { buildConditionEmbedding, buildControlNet } from '../models/controlnet/controlnet.ts';
import type { ControlNet } from '../models/controlnet/open.ts';
import { type Conditioning, conditioningFeeds } from '../models/families/conditioning.ts';
import { adapterInput } from '../models/unet/unet.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import type { LoadedGraph } from '../runtime/runtime.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import type { Pass } from './guided-run.ts';
import { toPlanes } from './image-values.ts';
import { coverage, type RegionShape } from './region.ts';

type Feeds = Readonly<Record<string, Tensor>>;

/** One guiding picture of a T2I-Adapter. */
export interface AdapterGuide {
  readonly adapter: T2iAdapter;
  /** As large as the picture to draw. */
  readonly picture: Picture;
  /** Multiplies the features. Default 1. */
  readonly strength?: number;
  /** Other strengths inside shapes; later ones cover earlier ones. Default none. */
  readonly regionStrengths?: readonly RegionStrength[];
}

export interface RegionStrength {
  readonly shape: RegionShape;
  readonly strength: number;
}

/** One guiding picture of a ControlNet. */
export interface ControlGuide {
  readonly controlNet: ControlNet;
  /** As large as the picture to draw. */
  readonly picture: Picture;
  /** Multiplies the residuals. Default 1. */
  readonly strength?: number;
}

/**
 * The strength of each cell, [height · width]: `strength`, inside each shape that shape's own.
 * Source: TencentARC/Mix-of-Show@51270fd, pipeline_regionally_t2iadapter.py, by its evident intention (as published the
 * weights overwrite the list of prompt regions).
 */
export function strengthMap(
  strength: number,
  regionStrengths: readonly RegionStrength[],
  height: number,
  width: number,
): Float32Array {
  const map = new Float32Array(height * width).fill(strength);
  for (const { shape, strength: inside } of regionStrengths) {
    const covered = coverage(shape, height, width);
    for (let i = 0; i < map.length; i++) map[i] = map[i]! + covered[i]! * (inside - map[i]!);
  }
  return map;
}

/** Features of one adapter for a picture, [1, C_i, h_i, w_i] each, not multiplied by any strength. */
export async function adapterFeatures(
  { weights, config }: T2iAdapter,
  picture: Picture,
  execution: ExecutionContext = executionContext(),
): Promise<Tensor<Float32Array>[]> {
  const size = { imageHeight: picture.height, imageWidth: picture.width };
  const session = await execution.runtime.load(
    buildT2iAdapter(weights, config, size).graph,
    'once',
    execution,
  );
  try {
    const outputs = await session.run({ image: toPlanes(picture, false) });
    return config.channels.map((_, i) => outputs[featureOutput(i)] as Tensor<Float32Array>);
  } finally {
    await session.dispose();
  }
}

/** The UNet's inputs for all adapters together: Σ strength · feature. */
export async function adapterFeeds(
  guides: readonly AdapterGuide[],
  execution: ExecutionContext,
): Promise<Feeds> {
  const sums: Record<string, Tensor<Float32Array>> = {};
  for (const { adapter, picture, strength = 1, regionStrengths = [] } of guides) {
    const features = await adapterFeatures(adapter, picture, execution);
    features.forEach(({ shape, data }, i) => {
      const [, , height, width] = shape as [number, number, number, number];
      const map = strengthMap(strength, regionStrengths, height, width);
      const sum = sums[adapterInput(i)] ?? float32(shape);
      for (let j = 0; j < data.length; j++) sum.data[j]! += data[j]! * map[j % map.length]!;
      sums[adapterInput(i)] = sum;
    });
  }
  return sums;
}

export interface ControlSetup {
  /** Rows B of each pass: pictures, twice with guidance. */
  readonly batch: number;
  readonly latentHeight: number;
  readonly latentWidth: number;
  /** What every row is conditioned on, B rows. */
  readonly conditioning: Conditioning;
}

interface LoadedControl {
  readonly session: LoadedGraph;
  readonly condition: Tensor;
  readonly strength: number;
}

/** ControlNets loaded for a run, with their pictures embedded. Dispose it when done. */
export class LoadedControls {
  readonly #members: readonly LoadedControl[];
  readonly #conditioning: Feeds;

  private constructor(members: readonly LoadedControl[], conditioning: Feeds) {
    this.#members = members;
    this.#conditioning = conditioning;
  }

  static async load(
    guides: readonly ControlGuide[],
    setup: ControlSetup,
    execution: ExecutionContext,
  ): Promise<LoadedControls> {
    const { runtime } = execution;
    const members: LoadedControl[] = [];
    for (const { controlNet, picture, strength = 1 } of guides) {
      const { weights, config } = controlNet;
      const size = { imageHeight: picture.height, imageWidth: picture.width };
      const embedding = await runtime.load(
        buildConditionEmbedding(weights, config, size).graph,
        'once',
        execution,
      );
      const { condition } = await embedding.run({ image: toPlanes(picture, false) });
      await embedding.dispose();
      const { graph } = buildControlNet(weights, config, {
        ...setup,
        tokens: setup.conditioning.context.shape[2]!,
      });
      members.push({
        session: await runtime.load(graph, 'every-step', execution),
        condition: condition!,
        strength,
      });
    }
    return new LoadedControls(members, conditioningFeeds(setup.conditioning));
  }

  /** The UNet's inputs for a step: Σ strength · residual. */
  async feeds(pass: Pass['feeds']): Promise<Feeds> {
    const sums: Record<string, Tensor<Float32Array>> = {};
    for (const { session, condition, strength } of this.#members) {
      const outputs = await session.run({
        ...pass,
        ...this.#conditioning,
        condition,
      });
      for (const [name, { shape, data }] of Object.entries(outputs)) {
        const sum = sums[name] ?? float32(shape);
        (data as Float32Array).forEach((value, i) => {
          sum.data[i]! += strength * value;
        });
        sums[name] = sum;
      }
    }
    return sums;
  }

  async dispose(): Promise<void> {
    for (const { session } of this.#members) await session.dispose();
  }
}
