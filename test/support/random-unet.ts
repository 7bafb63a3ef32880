/** A UNet of any configuration with weights that follow from their names, in a copy of a model's folder. */
import { cpSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { RawTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { unetSchema } from '../../src/models/unet/config.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { namedWeights } from './named-weights.ts';

/** @param json a UNet's config.json */
export async function writeRandomUnet(model: string, json: object, folder: string): Promise<void> {
  cpSync(model, folder, { recursive: true });
  const tensors = new Map<string, RawTensor>();
  const recorded = {
    label: 'random',
    get: (name: string, shape?: readonly number[]) => {
      const tensor = namedWeights.get(name, shape);
      if (tensor !== undefined) tensors.set(name, tensor);
      return tensor;
    },
  };
  buildUnet(recorded, unetSchema.parse(json), { batch: 1, latentHeight: 8, latentWidth: 8, tokens: 2 });
  writeFileSync(path.join(folder, 'unet', 'config.json'), JSON.stringify(json));
  await writeSafetensors(path.join(folder, 'unet', 'diffusion_pytorch_model.safetensors'), [
    ...tensors.values(),
  ]);
}
