/**
 * `npm run test:interop`: files in every scheme that diffusers and PEFT read, loaded by them. Every layer's weight must be ours to
 * 1e-5 of its change, and no name may be left over. Kinds other than plain LoRA are not diffusers': it leaves DoRA's magnitudes out. Then a
 * ported concept and a ported fusion are drawn by diffusers' own pipeline: pictures must be those of the sampler here to 1 of 255.
 *
 *     PYTHON=/path/to/python npm run test:interop
 *
 * Python with torch, diffusers, transformers and peft; where there is none, it says so and ends with 0.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { AdapterLayer } from '../../src/adapters/adapter.ts';
import { denseSteps, layerDelta } from '../../src/adapters/delta.ts';
import type { LayerFormat } from '../../src/adapters/schemes/index.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, type RawTensor, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { scale } from '../../src/linalg/low-rank.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import type { AdapterComponent } from '../../src/models/families/family.ts';
import type { Layer } from '../../src/models/families/layer-table.ts';
import { inOneGo } from '../../src/pace.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { PYTHON } from '../support/python.ts';
import { fusedOnSdxl } from './fused-sdxl.ts';
import { portableDifferences } from './portable.ts';

const TOLERANCE = 1e-5;

const present = spawnSync(PYTHON, ['-c', 'import diffusers, peft, transformers'], { encoding: 'utf8' });
if (present.status !== 0) {
  process.stdout.write(`skipped: ${PYTHON} has no diffusers, peft and transformers (PYTHON names another)\n`);
  process.exit(0);
}

const base = await openCheckpoint(defaultBase());
const weightOf = ({ component, layerName }: Pick<AdapterLayer, 'component' | 'layerName'>): RawTensor =>
  base.parts.get(component).weights.get(`${layerName}.weight`)!;
const random = new TorchGenerator(7n);
const draw = (name: string, ...shape: number[]): RawTensor => {
  const count = shape.reduce((size, axis) => size * axis, 1);
  return float32Tensor(
    name,
    shape,
    random.randn(count).map((value) => 0.3 * value),
  );
};

function lora({ component, layerName, m, n, kernel }: Layer, rank: number, loraAlpha: number): AdapterLayer {
  const area = kernel === null ? 1 : kernel[0]! * kernel[1]!;
  return {
    component: component as AdapterComponent,
    layerName,
    kind: 'lora',
    up: draw('up', m, rank, ...(kernel ?? []).map(() => 1)),
    down: draw('down', rank, n / area, ...(kernel ?? [])),
    mid: null,
    rank,
    scale: loraAlpha / rank,
    kernel: kernel as AdapterLayer['kernel'],
    doraScale: null,
    biasDiff: null,
  };
}

const layers = [...base.parts.layers];
const isAttention = ({ layerName }: Layer): boolean =>
  /\.(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)$/.test(layerName);
const linear = layers.filter(({ kernel }) => kernel === null);

const kinds: Readonly<Record<string, () => AdapterLayer[]>> = {
  plain: () => linear.map((layer) => lora(layer, 2, 1)),
  'mixed ranks': () => linear.map((layer, i) => lora(layer, 1 + (i % 3), 1 + (i % 2))),
  convolution: () =>
    layers.filter(({ kernel }) => kernel !== null).map((layer, i) => lora(layer, 1 + (i % 2), 2)),
  attention: () => linear.filter(isAttention).map((layer, i) => lora(layer, 1 + (i % 3), 3)),
};

const cases: readonly (readonly [format: LayerFormat, kind: string])[] = [
  ['kohya', 'plain'],
  ['kohya', 'mixed ranks'],
  ['kohya', 'convolution'],
  ['lycoris', 'mixed ranks'],
  ['diffusers', 'plain'],
  ['diffusers', 'mixed ranks'],
  ['diffusers', 'convolution'],
  ['diffusers-lora', 'mixed ranks'],
  ['diffusers-processor', 'attention'],
  ['peft', 'plain'],
  ['peft', 'mixed ranks'],
  ['peft', 'convolution'],
];

/** What is wrong with a file as it was loaded; `null` if nothing is. */
async function faultOf(loaded: string, written: readonly AdapterLayer[]): Promise<string | null> {
  const { tensors, metadata } = await openTensorFile(loaded);
  const error = metadata.get('error');
  if (error !== undefined) return error;
  const left = metadata.get('left_over');
  if (left !== undefined && left !== '') return left;
  if (tensors.size !== written.length)
    return `${tensors.size} layers changed, ${written.length} were written`;
  let [worst, where] = [0, ''];
  for (const layer of written) {
    const change = tensors.get(`${layer.component}.${layer.layerName}`);
    if (change === undefined) return `${layer.component}.${layer.layerName} did not change`;
    const delta = layerDelta(layer, weightOf(layer));
    const ours = inOneGo(denseSteps(scale(delta, delta.scale))).data;
    let [difference, size] = [0, 0];
    readFloat64(change).forEach((value, i) => {
      difference += (value - ours[i]!) ** 2;
      size += ours[i]! ** 2;
    });
    const own = Math.sqrt(difference / size);
    if (!(own <= worst)) [worst, where] = [own, layer.layerName];
  }
  return worst <= TOLERANCE ? null : `${where} is off by ${worst.toPrecision(2)}`;
}

const folder = mkdtempSync(path.join(tmpdir(), 'edlora-interop-'));
let faults = 0;
try {
  const files: string[] = [];
  const written: AdapterLayer[][] = [];
  for (const [format, kind] of cases) {
    const file = path.join(folder, `${files.length}${format === 'peft' ? '' : '.safetensors'}`);
    const own = kinds[kind]!();
    await writeAdapter(file, format, { architecture: 'sd1', layers: own, words: [], title: kind });
    files.push(file);
    written.push(own);
  }
  const script = path.join(packageRoot(), 'fixtures/cases/loaded/load_changes.py');
  const out = path.join(folder, 'loaded');
  const ran = spawnSync(PYTHON, [script, defaultBase(), out, ...files], { encoding: 'utf8' });
  if (ran.status !== 0) throw new Error(ran.stderr.slice(-4000));
  for (const [i, [format, kind]] of cases.entries()) {
    const fault = await faultOf(path.join(out, `${i}.safetensors`), written[i]!);
    if (fault !== null) faults++;
    process.stdout.write(`${format}, ${kind}: ${fault ?? `${written[i]!.length} layers right`}\n`);
  }
  for (const { naming, layers, worst, fault } of await fusedOnSdxl(folder)) {
    const found = fault ?? (worst <= TOLERANCE ? null : `a layer is off by ${worst.toPrecision(2)}`);
    if (found !== null) faults++;
    process.stdout.write(`a fusion on SDXL, ${naming}: ${found ?? `${layers} layers right`}\n`);
  }
  for (const { what, difference } of await portableDifferences(folder)) {
    if (!(difference <= 1)) faults++;
    process.stdout.write(`${what} in diffusers' pipeline: pixels differ by ${difference} of 255 at most\n`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.stdout.write(
  `${cases.length} files, a fusion on SDXL, a ported concept and a ported fusion, ${faults} faults\n`,
);
process.exitCode = faults === 0 ? 0 : 1;
