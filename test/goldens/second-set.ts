/**
 * A second set of the goldens, made from the shipped one by changes that are exact, so that no reference library is
 * needed: another batch size, other weight types, words and file names, groups and heads, another weight of the
 * attention term, half of the cases. A test that holds a number of the shipped set instead of reading it fails there.
 *
 *     npm run -s build:tools && node .build/test/goldens/second-set.js <folder>
 *     EDLORA_GOLDENS=<folder> npm run test:goldens
 */
import { cpSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import {
  elementCount,
  memoryTensor,
  type RawTensor,
  readFloat32,
  readFloat64,
  renamed,
} from '../../src/formats/raw-tensor.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts';
import type { TorchValue } from '../../src/formats/torch-value.ts';
import { torchTensor, writeTorchZip } from '../../src/formats/torch-writer.ts';
import { packageRoot } from '../../src/package-root.ts';

const target = process.argv[2];
if (target === undefined) throw new Error('expected the folder to write to');
for (const part of ['goldens', 'goldens-fusion']) {
  cpSync(path.join(packageRoot(), 'fixtures', part), path.join(target, part), { recursive: true });
}
const at = (...parts: string[]): string => path.join(target, ...parts);

// biome-ignore lint/suspicious/noExplicitAny: the shape of each index is what its test says
type Json = Record<string, any>;
function editJson(file: string, edit: (index: Json) => void): void {
  const index = JSON.parse(readFileSync(at(file), 'utf8')) as Json;
  edit(index);
  writeFileSync(at(file), JSON.stringify(index, null, 1));
}
function replaceText(file: string, from: RegExp, to: string): void {
  writeFileSync(at(file), readFileSync(at(file), 'utf8').replace(from, to));
}
/** Rewrites tensors one by one; `null` leaves one out. */
async function editTensors(file: string, edit: (tensor: RawTensor) => RawTensor | null): Promise<void> {
  const { tensors, metadata } = await openSafetensors(at(file));
  const edited = [...tensors.values()].map(edit).filter((tensor) => tensor !== null);
  await writeSafetensors(at(`${file}.new`), edited, metadata);
  renameSync(at(`${file}.new`), at(file));
}
/** The same dtype with other values. */
function withValues(tensor: RawTensor, shape: readonly number[], values: Float64Array): RawTensor {
  const bytes = tensor.dtype === 'F64' ? values : Float32Array.from(values);
  return memoryTensor(tensor.name, tensor.dtype, shape, new Uint8Array(bytes.buffer));
}
const everySecond = <T>(items: readonly T[]): T[] => items.filter((_, i) => i % 2 === 0);
function keepEverySecond(cases: Json): void {
  const kept = new Set(everySecond(Object.keys(cases)));
  for (const name of Object.keys(cases)) if (!kept.has(name)) delete cases[name];
}

/** Variants under other names, latents of twice the pictures: the second is the first turned upside down, as its noise is. */
async function schedulers(): Promise<void> {
  const folder = 'goldens/schedulers';
  const other = (name: string) => name.replaceAll('_', '-').toUpperCase();
  const names: string[] = [];
  editJson(`${folder}/schedulers.json`, (index) => {
    names.push(...Object.keys(index.variants));
    const variants = Object.entries<Json>(index.variants);
    for (const [, { runs }] of variants) keepEverySecond(runs);
    index.variants = Object.fromEntries(variants.map(([name, variant]) => [other(name), variant]));
    index.img2img = Object.fromEntries(
      Object.entries(index.img2img).map(([key, run]) => [
        `${other(key.split('/')[0]!)}/${key.split('/')[1]}`,
        run,
      ]),
    );
  });
  await editTensors(`${folder}/schedulers.safetensors`, (tensor) => {
    const name = tensor.name
      .split('/')
      .map((part) => (names.includes(part) ? other(part) : part))
      .join('/');
    const isLatents = /^(initial_noise|noise_bank)$|\/latents$/.test(name);
    return renamed(isLatents ? withFlipped(tensor) : tensor, name);
  });
}
/** […, B, C, H, W] to […, 2B, C, H, W]. */
function withFlipped(tensor: RawTensor): RawTensor {
  const outer = tensor.shape.slice(0, -4);
  const [batch, ...picture] = tensor.shape.slice(-4) as [number, ...number[]];
  const size = batch * elementCount(picture);
  const plane = picture[1]! * picture[2]!;
  const values = readFloat64(tensor);
  const out = new Float64Array(2 * values.length);
  for (let i = 0; i < values.length; i++) {
    const [row, place] = [Math.floor(i / size), i % size];
    out[2 * row * size + place] = values[i]!;
    out[(2 * row + 1) * size + place - (place % plane) + (plane - 1 - (place % plane))] = values[i]!;
  }
  return withValues(tensor, [...outer, 2 * batch, ...picture], out);
}

/** Half of the groups and heads, of the channels with them; a LoRA whose scale is halved and whose up factor is doubled. */
async function operations(): Promise<void> {
  const folder = 'goldens-fusion/training';
  editJson(`${folder}/ops.json`, (index) => {
    for (const name of ['group_norm', 'group_norm_eps6', 'attention', 'lora_linear']) {
      index[name].formula = (index[name].formula as string)
        .replace('groups=4', 'groups=2')
        .replace('heads=2', 'heads=1')
        .replace('0.8 (', '0.4 (');
    }
  });
  await editTensors(`${folder}/ops.safetensors`, (tensor) => {
    const [op, part] = tensor.name.split('|') as [string, string];
    if (/^group_norm/.test(op)) return firstHalf(tensor, tensor.shape.length === 1 ? 0 : 1);
    if (/^attention/.test(op)) return firstHalf(tensor, 2);
    if (op !== 'lora_linear' || !/up$/.test(part)) return tensor;
    const factor = part === 'in.up' ? 2 : 0.5;
    return withValues(
      tensor,
      tensor.shape,
      readFloat64(tensor).map((value) => factor * value),
    );
  });
}
function firstHalf(tensor: RawTensor, axis: number): RawTensor {
  const shape = tensor.shape.map((size, i) => (i === axis ? size / 2 : size));
  const inner = elementCount(tensor.shape.slice(axis + 1));
  const block = tensor.shape[axis]! * inner;
  const values = readFloat64(tensor).filter((_, i) => i % block < block / 2);
  return withValues(tensor, shape, values);
}

/** Other words and files; a heavier attention term (losses and gradients are linear in its weight); fewer trained layers. */
async function training(): Promise<void> {
  const folder = 'goldens-fusion/training';
  const { tensors } = await openSafetensors(at(folder, 'grads_and_steps.safetensors'));
  const regularised = ['masked_attnreg_full', 'masked_attnreg_nofull'];
  const heavier = 2;
  const without = (name: string): string => name.replace(/^[^|]*/, 'masked');
  editJson(`${folder}/cases.json`, (index) => {
    index.attn_reg_weight *= heavier;
    for (const name of regularised) index.cases[name].loss += (heavier - 1) * index.cases[name].attn_reg_part;
    delete index.cases.mos_ones_mask;
    delete index.cases.ti_1;
    delete index.cases.adamw_stop;
  });
  editJson(`${folder}/norms.json`, (norms) => {
    for (const key of Object.keys(norms)) if (regularised.includes(key.split('|')[0]!)) delete norms[key];
  });
  let dropped = 0;
  await editTensors(`${folder}/grads_and_steps.safetensors`, (tensor) => {
    const name = tensor.name.replaceAll('<maple', '<acer');
    const [owner] = name.split('|') as [string];
    if (owner === 'custom_diffusion' && name.endsWith('.weight') && dropped++ % 2 === 0) return null;
    if (!regularised.includes(owner)) return renamed(tensor, name);
    const plain = tensors.get(without(tensor.name));
    if (plain === undefined) return null;
    const before = readFloat64(plain);
    const values = readFloat64(tensor).map((value, i) => before[i]! + heavier * (value - before[i]!));
    return renamed(withValues(tensor, tensor.shape, values), name);
  });
  const words = [/<maple/g, '<acer'] as const;
  const files = [/maple\.pth/g, 'acer.pth'] as const;
  replaceText(`${folder}/cases.json`, ...words);
  replaceText(`${folder}/cases.json`, ...files);
  replaceText(`${folder}/norms.json`, ...words);
  const fusion = 'goldens-fusion/fusion';
  for (const run of ['2', '3']) {
    replaceText(`${fusion}/concept_list_${run}.json`, ...words);
    replaceText(`${fusion}/concept_list_${run}.json`, ...files);
    replaceText(`${fusion}/run_${run}/new_concept_cfg.json`, ...words);
  }
  await renameWords(`${fusion}/concepts/maple.pth`, `${fusion}/concepts/acer.pth`, ...words);
}
/** A concept whose words are called otherwise. */
async function renameWords(file: string, out: string, from: RegExp, to: string): Promise<void> {
  const change = (value: TorchValue): TorchValue =>
    value instanceof Map
      ? new Map(
          [...value].map(([key, item]) => [
            typeof key === 'string' ? key.replace(from, to) : key,
            change(item),
          ]),
        )
      : value;
  const { root } = await openTensorFile(at(file));
  await writeTorchZip(at(`${out}.new`), change(root!));
  rmSync(at(file));
  renameSync(at(`${out}.new`), at(out));
}

/** Weights in half precision, which holds them exactly; one file as a Lightning checkpoint; adapters in single precision. */
async function miniature(): Promise<void> {
  const folder = 'goldens/tiny-random';
  const half = (tensor: RawTensor): RawTensor =>
    tensor.dtype === 'F32'
      ? memoryTensor(tensor.name, 'F16', tensor.shape, encodeFloat(readFloat32(tensor), 'F16'))
      : tensor;
  for (const file of ['text_encoder/model', 'unet/diffusion_pytorch_model', 'vae/diffusion_pytorch_model']) {
    await editTensors(`${folder}/model/${file}.safetensors`, half);
  }
  await editTensors(`${folder}/t2i_adapter/diffusion_pytorch_model.safetensors`, (tensor) =>
    memoryTensor(tensor.name, 'F32', tensor.shape, encodeFloat(readFloat32(tensor), 'F32')),
  );
  const { tensors } = await openSafetensors(at(folder, 'single_file.safetensors'));
  const weights = new Map([...tensors].map(([name, tensor]) => [name, torchTensor(tensor)] as const));
  const checkpoint = new Map<TorchValue, TorchValue>([
    ['epoch', 3],
    ['global_step', 12345],
    ['pytorch-lightning_version', '1.4.2'],
    ['state_dict', new Map<TorchValue, TorchValue>(weights)],
    ['lr_schedulers', []],
    ['optimizer_states', []],
  ]);
  await writeTorchZip(at(folder, 'single_file.ckpt'), checkpoint);
  rmSync(at(folder, 'single_file.safetensors'));

  const words = [/<potter/g, '<figure'] as const;
  for (const file of ['unet_region', 'regional_pipeline', 'edlora_golden']) {
    replaceText(`${folder}/${file}.json`, ...words);
  }
  await renameWords(`${folder}/edlora.pth`, `${folder}/edlora.pth`, ...words);
  for (const file of ['unet_region', 'regional_pipeline']) {
    editJson(`${folder}/${file}.json`, ({ cases }) => {
      if (file === 'regional_pipeline') keepEverySecond(cases);
    });
  }
}

/** Half of what else there is. */
function fewerCases(): void {
  editJson('goldens/tokenizer/prompts.json', (index) => {
    index.prompts = everySecond(index.prompts);
  });
  editJson('goldens/rng/rng.json', (index) => {
    const kept = everySecond<number>(index.seeds);
    index.draws = index.draws.filter((draw: { name: string }) =>
      kept.some((seed) => draw.name.startsWith(`s${seed}/`)),
    );
  });
  editJson('goldens/formats/formats.json', keepEverySecond);
  editJson('goldens/formats/safetensors.json', (index) => {
    delete index['misc.safetensors'];
    index._not_writable = { float4_e2m1fn_x2: 'not known' };
  });
  editJson('goldens/hostile/hostile.json', (index) => keepEverySecond(index.files));
  editJson('goldens/end-to-end/end_to_end.json', (index) => keepEverySecond(index.cases));
  editJson('goldens-fusion/merges/peft/peft.json', (index) => keepEverySecond(index.cases));
  editJson('goldens-fusion/merges/kohya/kohya.json', (index) => keepEverySecond(index.cases));
  editJson('goldens-fusion/merges/lycoris/lycoris.json', (index) => keepEverySecond(index.cases));
  editJson('goldens-fusion/keys/sd15_library_outputs.json', keepEverySecond);
  rmSync(at('goldens-fusion/merges/dora'), { recursive: true });
}

await schedulers();
await operations();
await training();
await miniature();
fewerCases();
