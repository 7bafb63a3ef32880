/** A fusion on SDXL's miniature as diffusers loads it: every layer of both text encoders and of the UNet is W* − W₀. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat64 } from '../../src/formats/raw-tensor.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { writeFusion } from '../../src/fusion/output.ts';
import { toDense } from '../../src/linalg/low-rank.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { packageRoot } from '../../src/package-root.ts';
import { relativeError } from '../support/close.ts';
import { PYTHON } from '../support/python.ts';
import { writeRandomConcept } from '../support/random-concept.ts';

const NAMINGS = ['kohya', 'diffusers', 'peft'] as const;

/** What was found, naming by naming: the largest relative difference of a layer, or what is wrong. */
export async function fusedOnSdxl(
  folder: string,
): Promise<{ naming: string; layers: number; worst: number; fault: string | null }[]> {
  const model = path.join(packageRoot(), 'fixtures/goldens-families/sdxl/model');
  const base = await openCheckpoint(model);
  const concepts = [];
  for (const [seed, word] of ['<one>', '<two>'].entries()) {
    const file = path.join(folder, `sdxl-${seed}.safetensors`);
    await writeRandomConcept(file, base, { words: [word], seed });
    concepts.push({ concept: await loadConcept(file) });
  }
  const options = { steps: 1, runs: 1, promptTemplates: ['a {}'] };
  const fusion = await fuse({ base, concepts, options, preserveCaptions: [] });
  const files: string[] = [];
  for (const naming of NAMINGS) {
    const out = path.join(folder, `sdxl-${naming}`);
    await writeFusion(fusion, out, { naming });
    files.push(path.join(out, naming === 'peft' ? 'lora' : 'lora.safetensors'));
  }
  const loaded = path.join(folder, 'sdxl-loaded');
  const script = path.join(packageRoot(), 'fixtures/cases/loaded/load_changes.py');
  const ran = spawnSync(PYTHON, [script, model, loaded, ...files], { encoding: 'utf8' });
  if (ran.status !== 0) throw new Error(ran.stderr.slice(-4000));
  const results = [];
  for (const [i, naming] of NAMINGS.entries()) {
    const { tensors, metadata } = await openTensorFile(path.join(loaded, `${i}.safetensors`));
    let [worst, fault] = [0, metadata.get('error') || metadata.get('left_over') || null];
    for (const { component, layerName, delta } of fusion.layers.values()) {
      const change = tensors.get(`${component}.${layerName}`);
      if (change === undefined) fault ??= `${component}.${layerName} did not change`;
      else worst = Math.max(worst, relativeError(readFloat64(change), toDense(delta).data));
    }
    results.push({ naming, layers: fusion.layers.size, worst, fault });
  }
  return results;
}
