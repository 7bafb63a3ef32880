/**
 * The whole chain, from concept files to merged deltas, against an independent closed-form run in Python: text
 * encoder, then K and V, then the spatial layers, each stage feeding the next.
 */
import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { readManifest } from '../../src/concepts/manifest.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { PRESETS } from '../../src/fusion/options.ts';
import { applyToVector } from '../../src/linalg/low-rank.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { relativeError } from '../support/close.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/fusion';
/** The ridge of the stored run; README of the goldens, `pipeline_ridge_probes`. */
const RIDGE = 1e-3;
/** README: text and K/V layers 1e-3 relative, others 1e-2 (float32 features feed every later stage). */
const TOLERANCE = { text: 1e-3, cross: 1e-3, spatial: 1e-2 };

const runs = readdirSync(goldenPath(FOLDER)).filter((name) => /^run_\d+$/.test(name));

describe.each(runs)('%s', (run) => {
  it('gives the same change in every layer', { timeout: 120_000 }, async () => {
    const base = await openCheckpoint(goldenPath(FOLDER, 'base_model'));
    const specs = await readManifest(goldenPath(FOLDER, `concept_list_${run.slice(4)}.json`));
    const concepts = [];
    for (const { path, unetStrength, textEncoderStrength, conceptName: name } of specs) {
      concepts.push({ concept: await loadConcept(path), unetStrength, textEncoderStrength, name });
    }
    const latents = await openTensorFile(goldenPath(FOLDER, run, 'latents_and_embeddings.safetensors'));
    const noise = specs.map((_, i) => readFloat32(latents.tensors.get(`latents_${i}`)!));
    const [height, width] = latents.tensors.get('latents_0')!.shape.slice(-2) as [number, number];
    const layers = goldenJson<Record<string, { part: string; rows: number[] }>>(FOLDER, run, 'layers.json');
    // A layer at full size reads one row a cell and step.
    const spatial = Object.values(layers).filter(({ part }) => part === 'spatial');
    const steps = Math.max(...spatial.map(({ rows }) => rows[0]!)) / (height * width);
    const off = { text: 0, cross: 0, spatial: 0 };
    const ridge = { text: RIDGE, cross: RIDGE, spatial: RIDGE };
    const options = { ...PRESETS['mix-of-show'], steps, ridge, preserve: off };
    const fusion = await fuse({ base, concepts, noise, options });

    const expected = await openTensorFile(goldenPath(FOLDER, run, 'pipeline_ridge_probes.safetensors'));
    const probes = await openTensorFile(goldenPath(FOLDER, run, 'probes.safetensors'));
    expect(fusion.layers.size).toBe(expected.tensors.size);
    for (const { stage, layerName, delta } of fusion.layers.values()) {
      const probe = readFloat64(probes.tensors.get(`probe.${delta.down.cols}`)!);
      const change = readFloat64(expected.tensors.get(`${layerName}.weight`)!);
      expect(relativeError(applyToVector(delta, probe), change), layerName).toBeLessThan(TOLERANCE[stage]);
    }
    expect(fusion.vocabulary.conceptConfig()).toEqual(goldenJson(FOLDER, run, 'new_concept_cfg.json'));
  });
});
