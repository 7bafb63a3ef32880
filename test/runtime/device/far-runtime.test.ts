/** docs/architecture.md, "Adding a device": one class, and everything runs on it that the library runs. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { prepareConcept } from '../../../src/fusion/fusion-concept.ts';
import {
  type Checkpoint,
  fuse,
  loadConcept,
  openCheckpoint,
  Pipeline,
  packageRoot,
  train,
} from '../../../src/index.ts';
import { OnnxRuntime } from '../../../src/runtime/onnxruntime/onnx-runtime.ts';
import { writeRandomConcept } from '../../support/random-concept.ts';
import { writeSmallBase } from '../../support/small-base.ts';
import { FarRuntime } from './far-runtime.ts';

let folder: string;
let base: Checkpoint;
let toy: string;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-far-'));
  await writeSmallBase(path.join(folder, 'base'));
  base = await openCheckpoint(path.join(folder, 'base'));
  toy = path.join(folder, 'toy.safetensors');
  await writeRandomConcept(toy, base, { words: ['<toy>'], seed: 1 });
});
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

describe('another device', () => {
  it('draws the picture that the default one draws, of a concept, and nothing of it stays', async () => {
    const { deltas } = await prepareConcept(base, { concept: await loadConcept(toy) });
    const draw = async (runtime?: FarRuntime) => {
      const pipeline = await Pipeline.create(base, { deltas, runtime });
      const [picture] = await pipeline.sample({ prompt: 'a circle', steps: 1, width: 16, height: 16 });
      await pipeline.dispose();
      return picture!;
    };
    const near = await draw();
    const load = vi.spyOn(OnnxRuntime.prototype, 'load');
    const runtime = new FarRuntime();
    const far = await draw(runtime);
    expect(load).not.toHaveBeenCalled();
    expect(runtime.runs).toContain('every-step');
    expect(far.latents.data).toBeAllClose(near.latents.data, { rtol: 1e-3 });
    expect(Math.max(...far.data.map((value, i) => Math.abs(value - near.data[i]!)))).toBeLessThanOrEqual(1);
    expect(runtime.memory.size).toBe(0);
  });

  it('fuses and trains; what is multiplied in float64 stays on the CPU', async () => {
    const concepts = [{ concept: await loadConcept(toy) }];
    const load = vi.spyOn(OnnxRuntime.prototype, 'load');
    const runtime = new FarRuntime();
    const options = {
      steps: 1,
      size: { width: 32, height: 32 },
      guidanceScale: 1,
      preserve: { text: 0, cross: 0, spatial: 0 },
    };
    const fusion = await fuse({ base, concepts, options, runtime });
    expect(fusion.layers.size).toBeGreaterThan(0);
    expect(new Set(runtime.runs)).toEqual(new Set(['once', 'every-step', 'many-small']));
    for (const [graph] of load.mock.calls) {
      expect(new Set(graph.inputs.map(({ dtype }) => dtype))).toEqual(new Set(['float64']));
    }
    load.mockClear();
    const data = path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley');
    const settings = { data, method: 'lora', steps: 1, batch: 1, resolution: 16, rank: 1 } as const;
    const { log } = await train({ base, settings, runtime });
    expect(log).toHaveLength(1);
    expect(runtime.runs).toContain('training');
    expect(load).not.toHaveBeenCalled();
    expect(runtime.memory.size).toBe(0);
  });
});
