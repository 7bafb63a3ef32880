/** Every name that ComfyUI, A1111 and sd-scripts accept for a layer is read as that layer, with any of their suffixes. */
import { describe, expect, it } from 'vitest';
import { readAdapter } from '../../src/adapters/read.ts';
import { parseAdapterName } from '../../src/adapters/schemes/names.ts';
import { unwrittenFile } from '../../src/adapters/unwritten-file.ts';
import { memoryTensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { adapterModuleId } from '../../src/models/families/adapter-layers.ts';
import { adapterFamily } from '../../src/models/families/families.ts';
import { publishedLayers } from '../../src/models/families/known-layers.ts';
import { INTEROP_LISTS, type InteropList, interopList } from '../support/interop.ts';

const familyOf = ({ family }: InteropList): string => (family === 'sd15' ? 'sd1' : 'sdxl');

/** Tensors of one layer by suffix: shapes of rank 1, or small where a whole matrix is asked for. */
type Group = Readonly<Record<string, readonly number[]>>;

function groupsOf({ suffixes }: InteropList, [m, n, ...kernel]: readonly number[]): Record<string, Group> {
  const flat = kernel.reduce((area, size) => area * size, n!);
  const lora = suffixes.lora.map(([up, down]): [string, Group] => [
    up!,
    { [up!]: [m!, 1, ...kernel.map(() => 1)], [down!]: [1, n!, ...kernel], '.alpha': [] },
  ]);
  const groups: Record<string, Group> = Object.fromEntries(lora);
  const [up, down, mid] = suffixes.lora[0]!;
  if (mid !== undefined && kernel.length > 0) {
    groups.mid = { [up!]: [m!, 1, 1, 1], [down!]: [1, n!, 1, 1], [mid]: [1, 1, ...kernel] };
  }
  if ('loha' in suffixes) {
    groups.loha = {
      '.hada_w1_a': [m!, 1],
      '.hada_w1_b': [1, flat],
      '.hada_w2_a': [m!, 1],
      '.hada_w2_b': [1, flat],
    };
  }
  if ('lokr' in suffixes) {
    groups.lokr = { '.lokr_w1': [1, 1], '.lokr_w2_a': [m!, 1], '.lokr_w2_b': [1, flat] };
    groups['lokr, the other way'] = {
      '.lokr_w1_a': [1, 1],
      '.lokr_w1_b': [1, 1],
      '.lokr_w2': [4, 4, ...kernel],
    };
  }
  if ('full' in suffixes) groups.full = { '.diff': [4, 4, ...kernel], '.diff_b': [4] };
  if ('dora' in suffixes) groups.dora = { ...Object.values(groups)[0]!, '.dora_scale': [m!, 1] };
  if ('scale' in suffixes && (suffixes.scale as string[]).includes('.scale')) {
    groups.scale = { [up!]: [m!, 1, ...kernel.map(() => 1)], [down!]: [1, n!, ...kernel], '.scale': [] };
  }
  return groups;
}

const numbers = new Uint8Array(new Float32Array(1 << 17).fill(0.5).buffer);
const tensor = (name: string, shape: readonly number[]): RawTensor =>
  memoryTensor(name, 'F32', shape, numbers.subarray(0, 4 * shape.reduce((size, axis) => size * axis, 1)));

describe.each(INTEROP_LISTS)('%s', (title) => {
  const list = interopList(title);
  const family = familyOf(list);
  const table = publishedLayers(adapterFamily(family));

  it('has one layer of ours a row, of the same size, whatever its name', () => {
    const seen = new Set<string>();
    for (const [[m, n, ...kernel], ...names] of list.layers) {
      const ids = new Set(
        names.map((name) => {
          const module = parseAdapterName(`${name}.alpha`, { architecture: family });
          return module === null ? `nothing, by ${name}` : adapterModuleId(module);
        }),
      );
      expect(ids.size, names.join()).toBe(1);
      const [id] = [...ids] as [string];
      const layer = table.get(id)!;
      expect(layer, id).toBeDefined();
      const area = kernel.reduce((product, size) => product * size, 1);
      expect([layer.m, layer.n, layer.kernel ?? []]).toEqual([m, n! * area, kernel]);
      expect(seen).not.toContain(id);
      seen.add(id);
      const path = names.find((name) => name.startsWith('unet.') && !name.includes('.processor.'));
      if (path !== undefined)
        expect(id).toBe(path.replace('unet.class_embedding', 'unet.add_embedding').replace('.', ':'));
    }
  });

  it('has every kind of name with every suffix', () => {
    const kinds = new Map<string, readonly [shape: readonly number[], name: string]>();
    for (const [shape, ...names] of list.layers) {
      for (const name of names) kinds.set(name.replaceAll(/\d+/g, '#'), [shape, name]);
    }
    for (const [shape, name] of kinds.values()) {
      const layer = parseAdapterName(`${name}.alpha`, { architecture: family })!;
      for (const suffix of Object.values(groupsOf(list, shape)).flatMap((group) => Object.keys(group))) {
        const parsed = parseAdapterName(name + suffix, { architecture: family });
        expect({ ...parsed, part: 'alpha' }, name + suffix).toEqual(layer);
      }
    }
  });

  const groups = Object.keys(groupsOf(list, [4, 4, 3, 3]));
  const most = Math.max(...list.layers.map((row) => row.length - 1));
  /** One row of each kind: what differs in a number alone is read alike. */
  const kinds = [
    ...new Map(list.layers.map((row) => [row[1]!.replaceAll(/\d+/g, '#'), row])).values(),
  ] as typeof list.layers;

  const readWhole = (rows: typeof list.layers, group: string, which: number): void => {
    const layers = rows.flatMap(([shape, ...names]) => {
      const parts = groupsOf(list, shape)[group];
      return parts === undefined ? [] : [{ name: names[which % names.length]!, parts }];
    });
    const tensors = layers.flatMap(({ name, parts }) =>
      Object.entries(parts).map(([suffix, shape]) => tensor(name + suffix, shape)),
    );
    const adapter = readAdapter(unwrittenFile('any.safetensors', tensors));
    expect([adapter.architecture, adapter.layers.size, adapter.unusable]).toEqual([
      family,
      layers.length,
      [],
    ]);
    // Every number is 0.5, alphas and A1111's scales too; a whole product has neither.
    const halved = groups.indexOf(group) < list.suffixes.lora.length || ['dora', 'scale'].includes(group);
    const scales = new Set([...adapter.layers.values()].map(({ scale }) => scale));
    expect([...scales]).toEqual([halved ? 0.5 : 1]);
  };

  it.each(Array.from({ length: most }, (_, which) => which))(
    'is read whole, by name %i of each row',
    (which) => {
      readWhole(list.layers, groups[0]!, which);
    },
  );

  it.each(groups)('is read in files of %s', (group) => {
    for (let which = 0; which < most; which++) readWhole(kinds, group, which);
  });
});

it('ComfyUI accepts names of the UNet without their first level', () => {
  for (const [, ...names] of interopList('comfyui-sdxl').layers) {
    const name = names.find((own) => own.startsWith('unet.'));
    if (name === undefined) continue;
    const parse = (own: string) => parseAdapterName(`${own}.lora_up.weight`, { architecture: 'sdxl' });
    expect(parse(name.slice('unet.'.length)), name).toEqual(parse(name));
    expect(parse(name)).not.toBeNull();
  }
});
