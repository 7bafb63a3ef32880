import { describe, expect, it } from 'vitest';
import { schemes } from '../../src/adapters/schemes/index.ts';
import { parseAdapterName } from '../../src/adapters/schemes/names.ts';
import {
  adapterModulePath,
  diffusersKohyaName,
  kernelOfLayer,
  modulesOf,
} from '../../src/models/families/adapter-layers.ts';
import { goldenJson } from '../support/goldens.ts';

interface KeyFile {
  modules: { kohya: string; diffusers_module: string; weight: number[] }[];
}

const { modules } = goldenJson<KeyFile>('goldens-fusion/keys/sdxl_kohya_keys.json');

describe('names of every SDXL module', () => {
  it.each(modules.map((entry) => [entry.kohya, entry] as const))(
    '%s',
    (_, { kohya, diffusers_module, weight }) => {
      const module = adapterModulePath(diffusers_module)!;
      expect(parseAdapterName(`${kohya}.alpha`, { architecture: 'sdxl' })).toEqual({
        ...module,
        part: 'alpha',
      });
      expect(
        parseAdapterName(`${diffusersKohyaName('sdxl', module)}.alpha`, { architecture: 'sdxl' }),
      ).toEqual({
        ...module,
        part: 'alpha',
      });
      for (const part of ['up', 'down'] as const) {
        const key = schemes.kohya.key!(module, part, 'sdxl');
        expect(key).toBe(`${kohya}.lora_${part}.weight`);
        const diffusers = schemes.diffusers.key!(module, part, 'sdxl');
        expect(diffusers).toBe(`${diffusers_module}.lora_${part === 'up' ? 'B' : 'A'}.weight`);
        for (const format of ['diffusers', 'diffusers-lora'] as const) {
          expect(
            parseAdapterName(schemes[format].key!(module, part, 'sdxl'), { architecture: 'sdxl' }),
          ).toEqual({
            ...module,
            part,
          });
        }
      }
      expect(kernelOfLayer('sdxl', module)).toEqual(weight.length === 4 ? weight.slice(2) : null);
    },
  );

  it('are all in the table', () => {
    const known = new Set(modulesOf('sdxl').map(({ component, layerName }) => `${component}.${layerName}`));
    for (const { diffusers_module } of modules) expect(known).toContain(diffusers_module);
  });
});

interface Sd15 {
  modules: { module: string; weight: number[] }[];
}

describe('SD 1.5 in the original numbering', () => {
  const sd15 = goldenJson<Sd15>('goldens-fusion/keys/sd15_lora_keys.json').modules;

  it.each(sd15.map(({ module }) => module))('%s', (path) => {
    const module = adapterModulePath(path)!;
    for (const format of ['kohya', 'kohya-ldm'] as const) {
      expect(parseAdapterName(schemes[format].key!(module, 'up', 'sd1'), { architecture: 'sd1' })).toEqual({
        ...module,
        part: 'up',
      });
    }
  });

  it('tells convolutions by their names', () => {
    for (const { module, weight } of sd15) {
      expect(kernelOfLayer('sd1', adapterModulePath(module)!)).toEqual(
        weight.length === 4 ? weight.slice(2) : null,
      );
    }
  });
});
