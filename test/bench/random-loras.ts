/** Full-size plain LoRAs for SDXL with random numbers, as most people's are: every linear layer of the UNet's transformers. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { type MergedLayer, writeLora } from '../../src/concepts/lora-file.ts';
import { sdxl } from '../../src/models/families/sdxl.ts';
import { SDXL_UNET } from '../../src/models/families/sdxl-configs.ts';
import { unetLayers } from '../../src/models/unet/changeable-layers.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { benchCache } from './random-model.ts';

const RANK = 16;
/** A trained delta moves a layer's answer by some per cent; products of two factors of this size do too. */
const SIZE = 0.01;

/** The 722 layers that sd-scripts trains. */
export const LORA_LAYERS = unetLayers(SDXL_UNET).filter(({ role }) =>
  /attention|context|feed-forward|projection/.test(role),
);

/** Files of `count` LoRAs of rank 16, 190 MB each; made on the first call. */
export async function ensureRandomLoras(count: number): Promise<string[]> {
  const files: string[] = [];
  for (let i = 1; i <= count; i++) {
    const file = path.join(benchCache(), `random-sdxl-lora-${i}-r${RANK}.safetensors`);
    if (!existsSync(file)) await writeRandomLora(file, i);
    files.push(file);
  }
  return files;
}

function writeRandomLora(file: string, seed: number): Promise<void> {
  const generator = new TorchGenerator(2000 + seed);
  const random = (count: number): Float32Array => generator.randn(count).map((value) => SIZE * value);
  const layers = LORA_LAYERS.map(
    ({ component, layerName, m, n, kernel }): MergedLayer => ({
      component: component as MergedLayer['component'],
      layerName,
      up: random(m * RANK),
      down: random(RANK * n),
      rank: RANK,
      kernel,
    }),
  );
  return writeLora(file, layers, { naming: 'kohya', family: sdxl });
}
