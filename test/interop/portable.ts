/** A ported concept and a ported fusion drawn by diffusers' own pipeline, beside the sampler here with the same files, seeds and steps. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { defaultCaptions, withEmptyPrompt } from '../../src/fusion/captions.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { writeFusion } from '../../src/fusion/output.ts';
import { portable } from '../../src/fusion/port/port.ts';
import { openPortSource } from '../../src/fusion/port/port-source.ts';
import { writePort } from '../../src/fusion/port/write-port.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { openSceneModel } from '../../src/sampling/model-source.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { prepareScene } from '../../src/sampling/scene-request.ts';
import { PYTHON } from '../support/python.ts';

const SEEDS = [0, 1, 2];
const STEPS = 10;
const GUIDANCE = 4;

const [SMILEY, BULLSEYE] = ['smiley', 'bullseye'].map((name) =>
  path.join(packageRoot(), `fixtures/tiny-world/concepts/edlora_${name}.pth`),
) as [string, string];

/** What is ported, with the largest difference of a pixel's value, of 255. @param folder for the files */
export async function portableDifferences(folder: string): Promise<{ what: string; difference: number }[]> {
  const base = await openCheckpoint(defaultBase());
  const concepts = [{ concept: await loadConcept(SMILEY) }, { concept: await loadConcept(BULLSEYE) }];
  const fused = path.join(folder, 'fused');
  await writeFusion(await fuse({ base, concepts }), fused);
  return [
    { what: 'a ported concept', difference: await differenceOf(SMILEY, path.join(folder, 'one')) },
    { what: 'a ported fusion', difference: await differenceOf(fused, path.join(folder, 'two')) },
  ];
}

async function differenceOf(file: string, folder: string): Promise<number> {
  const source = await openPortSource(file);
  const captions = withEmptyPrompt(await defaultCaptions(source.base));
  const port = await portable({ ...source, captions });
  const out = path.join(folder, 'portable');
  const { words } = await writePort(source.base, port, source.names, out);
  const called = [...words.values()];
  const prompt = `photo of a ${called.join(' ')}`;

  const pictures = path.join(folder, 'pictures.safetensors');
  const script = path.join(packageRoot(), 'test/interop/draw_portable.py');
  const figures = [STEPS, GUIDANCE].map(String);
  const argv = [script, defaultBase(), out, prompt, ...figures, pictures, ...SEEDS.map(String)];
  const { status, stderr } = spawnSync(PYTHON, argv, { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr.slice(-4000));
  const theirs = readFloat32((await openTensorFile(pictures)).tensors.get('pictures')!);

  const scene = normalScene({
    prompt,
    loras: [path.join(out, 'lora.safetensors')],
    embeddings: called.map((word) => path.join(out, `${word}.safetensors`)),
    steps: STEPS,
    guidance: GUIDANCE,
    sampler: 'ddim',
    seed: SEEDS[0]!,
    count: SEEDS.length,
  });
  const model = await openSceneModel(scene);
  const { request } = await prepareScene(scene, model);
  const placedDeltas = model.concepts.map(({ deltas }) => deltas);
  const pipeline = await Pipeline.create(model.base, { ...model, placedDeltas });
  const ours = await pipeline.sample(request);
  await pipeline.dispose();
  const values = ours.flatMap(({ data }) => [...data]);
  return Math.max(...values.map((value, i) => Math.abs(value - Math.round(255 * theirs[i]!))));
}
