/** A ported concept drawn by diffusers' own pipeline, beside the sampler here with the same files, seeds and steps. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { defaultCaptions, withEmptyPrompt } from '../../src/fusion/captions.ts';
import { portable } from '../../src/fusion/port/port.ts';
import { openPortSource } from '../../src/fusion/port/port-source.ts';
import { writePort } from '../../src/fusion/port/write-port.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { openSceneModel } from '../../src/sampling/model-source.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { prepareScene } from '../../src/sampling/scene-request.ts';

const SEEDS = [0, 1, 2];
const STEPS = 10;
const GUIDANCE = 4;

/** The largest difference of a pixel's value, of 255. @param folder for the files */
export async function portableDifference(python: string, folder: string): Promise<number> {
  const concept = path.join(packageRoot(), 'fixtures/tiny-world/concepts/edlora_smiley.pth');
  const source = await openPortSource(concept);
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
  const { status, stderr } = spawnSync(python, argv, { encoding: 'utf8' });
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
