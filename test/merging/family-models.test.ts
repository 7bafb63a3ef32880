/** Models of other families: a LoRA baked into folder and single file is W₀ + ΔW in every layer, and is extracted again. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { toDense } from '../../src/linalg/low-rank.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import { extractModel } from '../../src/merging/jobs/extract-model.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import { relativeError } from '../support/close.ts';
import { familySingleFile, GOLDEN_FAMILIES } from '../support/golden-families.ts';
import { familiesPath } from '../support/goldens.ts';
import { scratch } from '../support/scratch.ts';

/** Float16 keeps eleven bits. */
const HALF = 1e-3;

const WHOLE = { strength: 1, textEncoderStrength: 1, blockWeights: null };

describe.each(GOLDEN_FAMILIES)('%s', (family) => {
  const model = familiesPath(family, 'model');
  const lora = path.join(
    familiesPath(family, 'lora'),
    readdirSync(familiesPath(family, 'lora')).find((name) => name.startsWith('kohya'))!,
  );
  let base: Checkpoint;
  let deltas: ModelDeltas;
  beforeAll(async () => {
    base = await openCheckpoint(model);
    deltas = await conceptDeltas(base, await loadConcept(lora), { convolutions: true });
  });

  function expectBaked(baked: Checkpoint): void {
    expect(baked.family.name).toBe(family);
    const components = new Set<string>();
    for (const { id, component, layerName } of base.parts.layers) {
      const name = `${layerName}.weight`;
      const before = readFloat32(base.parts.get(component).weights.get(name)!);
      const after = readFloat32(baked.parts.get(component).weights.get(name)!);
      const delta = deltas.get(id);
      const change = delta === undefined ? null : toDense(delta).data;
      if (change !== null) components.add(component);
      const wanted = before.map((value, i) => value + (change?.[i] ?? 0));
      expect(relativeError(after, wanted), id).toBeLessThan(HALF);
    }
    expect([...components].sort()).toEqual([...base.parts.textEncoders.keys(), 'unet'].sort());
  }

  it('bakes into a folder, which is extracted again', async () => {
    const out = scratch('baked');
    await bakeFiles({ base: model, inputs: [{ path: lora, ...WHOLE }], out, dtype: 'F32' });
    expectBaked(await openCheckpoint(out));
    const extracted = scratch('extracted.safetensors');
    const { extracted: layers } = await extractModel({
      tuned: out,
      base: model,
      out: extracted,
      rank: 8,
      layers: 'all',
    });
    expect(new Set(layers.map(({ id }) => id.split(':')[0]))).toEqual(
      new Set([...base.parts.textEncoders.keys(), 'unet']),
    );
    const again = await conceptDeltas(base, await loadConcept(extracted), { convolutions: true });
    for (const [id, delta] of again) {
      expect(relativeError(toDense(delta).data, toDense(deltas.get(id)!).data), id).toBeLessThan(1e-3);
    }
  });

  it('bakes into a single file', async () => {
    const out = scratch('baked.safetensors');
    await bakeFiles({
      base: await familySingleFile(family),
      inputs: [{ path: lora, ...WHOLE }],
      out,
      dtype: 'F32',
    });
    expectBaked(await openCheckpoint(out, { configFolder: model }));
  });
});
