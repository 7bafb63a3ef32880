import { describe, expect, it } from 'vitest';
import { diffusersLoraKey } from '../../src/adapters/schemes/diffusers-names.ts';
import { edLoraKey } from '../../src/adapters/schemes/ed-lora-names.ts';
import { schemes } from '../../src/adapters/schemes/index.ts';
import { parseAdapterName } from '../../src/adapters/schemes/names.ts';
import { peftKey } from '../../src/adapters/schemes/peft-names.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { isKnownLayer } from '../../src/models/families/known-layers.ts';
import { sd1 } from '../../src/models/families/sd1.ts';
import {
  isIgnoredInSingleFile,
  isVaeAttentionMatrix,
  ldmStructureOf,
  ldmUnetNames,
  ldmVaeNames,
} from '../../src/models/keys/ldm.ts';
import { type ModulePath, modulePath } from '../../src/models/keys/module-path.ts';
import { unetSchema } from '../../src/models/unet/config.ts';
import { goldenJson, goldenSingleFile } from '../support/goldens.ts';

interface KeyFile {
  modules: {
    module: string;
    kohya: Record<'up' | 'down' | 'alpha', string>;
    diffusers: Record<'A' | 'B', string>;
    peft: Record<'A' | 'B', string>;
    edlora: Record<'up' | 'down', string> | null;
    diffusers_old?: Record<'up' | 'down', string>;
    diffusers_0_18?: Record<'up' | 'down', string>;
  }[];
}

const { modules } = goldenJson<KeyFile>('goldens-fusion/keys/sd15_lora_keys.json');
const parts = ['up', 'down'] as const;
const parse = (name: string) => parseAdapterName(name, { architecture: 'sd1' });

describe('LoRA names of every SD 1.5 module', () => {
  const paths = modules.map(({ module }) => modulePath(module)!);

  it.each(modules.map((entry, i) => [entry.module, entry, paths[i]!] as const))('%s', (_, entry, module) => {
    expect(isKnownLayer(module)).toBe(true);
    for (const part of ['up', 'down', 'alpha'] as const) {
      expect(parse(entry.kohya[part])).toEqual({ ...module, part });
    }
    for (const part of parts) {
      expect(schemes.kohya.key!(module, part, 'sd1')).toBe(entry.kohya[part]);
      const letter = part === 'up' ? 'B' : 'A';
      expect(diffusersLoraKey(module, part)).toBe(entry.diffusers[letter]);
      expect(parse(entry.diffusers[letter])).toEqual({ ...module, part });
      expect(peftKey(module, part)).toBe(entry.peft[letter]);
      expect(parse(entry.peft[letter])).toEqual({ ...module, part });
      if (entry.edlora !== null) {
        expect(edLoraKey(module, part)).toBe(entry.edlora[part]);
        expect(parse(`${module.component}.${entry.edlora[part]}`)).toEqual({ ...module, part });
      }
      expect(diffusersLoraKey(module, part, 'processor')).toBe(entry.diffusers_old?.[part] ?? null);
      if (entry.diffusers_old !== undefined) {
        expect(parse(entry.diffusers_old[part])).toEqual({ ...module, part });
      }
      expect(diffusersLoraKey(module, part, 'lora_linear_layer')).toBe(entry.diffusers_0_18?.[part] ?? null);
      if (entry.diffusers_0_18 !== undefined) {
        expect(parse(entry.diffusers_0_18[part])).toEqual({ ...module, part });
      }
      const between = diffusersLoraKey(module, part, 'lora');
      if (between !== null) expect(parse(between)).toEqual({ ...module, part });
    }
  });

  it('has room for all of them', () =>
    expect(new Set(modules.map(({ kohya }) => kohya.up)).size).toBe(modules.length));
});

describe('names that the libraries wrote', () => {
  const outputs = goldenJson<Record<string, string[]>>('goldens-fusion/keys/sd15_library_outputs.json');
  const known = new Set(modules.map(({ module }) => module));
  it.each(Object.entries(outputs))('%s', (_, keys) => {
    expect(keys.length).toBeGreaterThan(0);
    for (const key of keys) {
      const parsed = parse(key);
      expect(parsed, key).not.toBeNull();
      expect(known.has(`${parsed!.component}.${parsed!.layerName}`), key).toBe(true);
    }
  });

  it('ED-LoRA files', () => {
    const files = goldenJson<Record<'unet' | 'text_encoder', Record<string, string[]>>>(
      'goldens-fusion/keys/edlora_files.json',
    );
    for (const component of ['unet', 'text_encoder'] as const) {
      for (const layers of Object.values(files[component])) {
        for (const layerName of layers) expect(isKnownLayer({ component, layerName }), layerName).toBe(true);
      }
    }
  });
});

describe('single-file names', () => {
  const keyMap = goldenJson<Record<string, string>>('goldens/tiny-random/single_file_key_map.json');
  const unet = unetSchema.parse(goldenJson('goldens/tiny-random/model/unet/config.json'));
  const vae = goldenJson<{ down_block_types: string[]; layers_per_block: number }>(
    'goldens/tiny-random/model/vae/config.json',
  );
  const maps = {
    unet: ldmUnetNames(ldmStructureOf(unet)),
    vae: ldmVaeNames({ blocks: vae.down_block_types.length, layersPerBlock: vae.layers_per_block }),
  };

  it('map both ways for every parameter', () => {
    expect(Object.keys(keyMap).length).toBeGreaterThan(0);
    for (const [key, ldm] of Object.entries(keyMap)) {
      const [component, paramName] = key.split('/') as [keyof typeof maps | 'text_encoder', string];
      if (component === 'text_encoder') {
        expect(sd1.adapters.singleFile.text_encoder!(ldm), ldm).toEqual([paramName]);
        continue;
      }
      expect(maps[component].toLdm(paramName), key).toBe(ldm);
      expect(maps[component].fromLdm(ldm), ldm).toBe(paramName);
    }
  });

  it('cover the file, ignored names apart; attention matrices of the VAE are convolutions there', async () => {
    const file = await openTensorFile(goldenSingleFile());
    const mapped = new Map(
      Object.entries(keyMap).map(([key, ldm]) => [ldm, key.slice(key.indexOf('/') + 1)]),
    );
    for (const [stored, { shape }] of file.tensors) {
      const name = stored.replace(/^state_dict\./, '');
      // Lightning stores the run's state beside the weights.
      if (name === stored && file.format !== 'safetensors') continue;
      expect(isIgnoredInSingleFile(name), name).toBe(!mapped.has(name));
      const paramName = maps.vae.fromLdm(name);
      if (paramName !== null && isVaeAttentionMatrix(paramName)) expect(shape.slice(2), name).toEqual([1, 1]);
    }
  });
});

describe('the full-size modules', () => {
  const full = goldenJson<Record<'unet' | 'text_encoder', Record<string, { type: string }>>>(
    'goldens-fusion/keys/sd15_modules.json',
  );
  it('are all known where a LoRA can train them', () => {
    for (const component of ['unet', 'text_encoder'] as const) {
      for (const [layerName, { type }] of Object.entries(full[component])) {
        const module: ModulePath = { component, layerName };
        expect(isKnownLayer(module), layerName).toBe(type === 'Linear' || type === 'Conv2d');
      }
    }
  });
});
