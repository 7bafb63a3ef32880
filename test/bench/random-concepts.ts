/** Full-size ED-LoRA concepts with random numbers: what fusing real ones costs, without shipping any. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { type MergedLayer, writeLora } from '../../src/concepts/lora-file.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { textLayers } from '../../src/models/clip/changeable-layers.ts';
import { CLIP_VIT_L_TEXT, SD15_UNET } from '../../src/models/families/sd1-configs.ts';
import { unetLayers } from '../../src/models/unet/changeable-layers.ts';
import { crossAttentionNames } from '../../src/models/unet/structure.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { tokenOf } from '../support/tokens.ts';
import { benchCache } from './random-model.ts';

const RANK = 4;
/** A trained delta moves a layer's answer by some per cent; products of two factors of this size do too. */
const SIZE = 0.02;

/** All attention linears of the UNet and the text encoder. */
export const CONCEPT_LAYERS = [...textLayers(CLIP_VIT_L_TEXT), ...unetLayers(SD15_UNET)].filter(({ role }) =>
  /attention|context/.test(role),
);

/**
 * Files of `count` concepts for SD 1.5: rank 4 on all attention linears of the UNet and the text encoder, two words
 * each. Made on the first call.
 */
export async function ensureRandomConcepts(count: number): Promise<string[]> {
  const files: string[] = [];
  for (let i = 0; i < count; i++) {
    const file = path.join(benchCache(), `random-concept-${i + 1}-r${RANK}.safetensors`);
    if (!existsSync(file)) await writeConcept(file, i);
    files.push(file);
  }
  return files;
}

async function writeConcept(file: string, index: number): Promise<void> {
  const generator = new TorchGenerator(1000 + index);
  const random = (count: number): Float32Array => generator.randn(count).map((value) => SIZE * value);
  const layers = CONCEPT_LAYERS.map(
    ({ component, layerName, m, n }): MergedLayer => ({
      component: component as MergedLayer['component'],
      layerName,
      up: random(m * RANK),
      down: random(RANK * n),
      rank: RANK,
      kernel: null,
    }),
  );
  const tokens = [1, 2].map((k) => {
    const word = `<concept${index + 1}${'ab'[k - 1]}>`;
    const rows = crossAttentionNames(SD15_UNET).length;
    return tokenOf(word, float32Tensor(word, [rows, 768], random(rows * 768)));
  });
  await writeLora(file, layers, { naming: 'ed-lora', tokens });
}
