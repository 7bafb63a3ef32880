/**
 * What one step of the optimiser is given: AdamW does not change when its gradient is scaled, so a sum in place of a mean
 * moves nothing at first. Its running means, kept in the state of the run, tell: after the first step they are 0.1 g.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import type { TrainingInput } from '../../src/training/options.ts';
import { stateFileOf } from '../../src/training/output.ts';
import { train } from '../../src/training/train.ts';

let folder = '';
let base: Checkpoint;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-step-'));
  base = await openCheckpoint(defaultBase());
});
afterAll(() => rmSync(folder, { recursive: true }));

const PLAIN: TrainingInput = {
  method: 'ed-lora',
  token: '<a>+<b>',
  init: 'circle+circle',
  data: path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley'),
  batch: 1,
  threads: 1,
  resolution: 32,
  seed: 3,
  schedule: 'constant',
  normStop: 0,
  maxGradNorm: 0,
};
/** Rates at which nothing moves, so that later steps find the same parameters. */
const STILL = { lrEmbedding: 1e-30, lrText: 1e-30, lrUnet: 1e-30 };

interface After {
  readonly losses: number[];
  /** Running means of the gradients by parameter. */
  readonly means: ReadonlyMap<string, Float32Array>;
  readonly parameters: ReadonlyMap<string, Float32Array>;
}
const done = new Map<string, Promise<After>>();
function stateAfter(settings: Partial<TrainingInput>): Promise<After> {
  const key = JSON.stringify(settings);
  const known = done.get(key) ?? run(settings, stateFileOf(path.join(folder, `${done.size}`)));
  done.set(key, known);
  return known;
}
async function run(settings: Partial<TrainingInput>, stateFile: string): Promise<After> {
  const { log } = await train({ base, settings: { ...PLAIN, ...settings }, stateFile });
  const { tensors } = await openTensorFile(stateFile);
  const of = (kind: string): Map<string, Float32Array> =>
    new Map(
      [...tensors].flatMap(([name, tensor]) =>
        name.startsWith(`${kind}|`) ? [[name.slice(kind.length + 1), readFloat32(tensor)]] : [],
      ),
    );
  return { losses: log.map(({ loss }) => loss), means: of('mean'), parameters: of('parameter') };
}

const largest = (values: Iterable<Float32Array>): number =>
  Math.max(...[...values].map((own) => own.reduce((most, x) => Math.max(most, Math.abs(x)), 0)));
const normOf = (values: Iterable<Float32Array>): number =>
  Math.sqrt([...values].reduce((sum, own) => sum + own.reduce((part, x) => part + x * x, 0), 0));

describe('a step', () => {
  it('over several batches takes the mean of their gradients and losses', async () => {
    const together = await stateAfter({ ...STILL, steps: 1, accumulate: 2 });
    const first = await stateAfter({ ...STILL, steps: 1 });
    const second = await stateAfter({ ...STILL, steps: 2 });
    expect(together.losses[0]).toBeCloseTo((second.losses[0]! + second.losses[1]!) / 2, 6);
    expect(second.losses[1]).not.toBeCloseTo(second.losses[0]!, 3);
    expect(together.means.size).toBeGreaterThan(10);
    const reach = 1e-5 * largest(first.means.values());
    for (const [name, mean] of together.means) {
      // After two steps the mean is 0.9 · 0.1 g₁ + 0.1 g₂.
      const expected = mean.map((_, i) => {
        const [one, both] = [first.means.get(name)![i]!, second.means.get(name)![i]!];
        return (one + both - 0.9 * one) / 2;
      });
      expect(mean, name).toBeAllClose(expected, { rtol: 1e-3, atol: reach });
    }
  });

  it('shortens gradients whose norm, of all parameters together, is above the largest allowed', async () => {
    const plain = await stateAfter({ ...STILL, steps: 1 });
    const norm = normOf(plain.means.values()) / 0.1;
    const cut = await stateAfter({ ...STILL, steps: 1, maxGradNorm: norm / 4 });
    expect(normOf(cut.means.values()) / 0.1).toBeCloseTo(norm / 4, 6);
    for (const [name, mean] of cut.means) {
      const expected = plain.means.get(name)!.map((value) => value / 4);
      expect(mean, name).toBeAllClose(expected, { rtol: 1e-4, atol: 1e-12 });
    }
    const loose = await stateAfter({ ...STILL, steps: 1, maxGradNorm: norm * 1.01 });
    for (const [name, mean] of loose.means) expect(mean, name).toEqual(plain.means.get(name));
  });

  it('pulls embeddings back to where they started, by 2 λ (v − v₀)', async () => {
    const inversion: Partial<TrainingInput> = {
      method: 'textual-inversion',
      token: '<a>',
      init: 'circle',
      lrEmbedding: 0.01,
    };
    const classWeight = 3;
    const start = (await stateAfter({ ...inversion, lrEmbedding: 1e-30, steps: 1 })).parameters.get(
      'embedding',
    )!;
    const moved = (await stateAfter({ ...inversion, steps: 1 })).parameters.get('embedding')!;
    const free = await stateAfter({ ...inversion, steps: 2 });
    const pulled = await stateAfter({ ...inversion, steps: 2, classWeight });
    const away = moved.map((value, i) => value - start[i]!);
    expect(largest([away])).toBeGreaterThan(1e-3);
    expect(pulled.losses[0]).toBe(free.losses[0]);
    expect(pulled.losses[1]! - free.losses[1]!).toBeCloseTo(classWeight * normOf([away]) ** 2, 5);
    const added = pulled.means.get('embedding')!.map((value, i) => value - free.means.get('embedding')![i]!);
    expect(added).toBeAllClose(
      away.map((value) => 0.1 * 2 * classWeight * value),
      { rtol: 1e-3, atol: 1e-7 },
    );
  });
});
