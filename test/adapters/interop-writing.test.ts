/**
 * What is written, by the names that ComfyUI, A1111 and sd-scripts accept: every tensor is read, but for the layers that the table
 * of programs says; and the table says no others.
 */
import { describe, expect, it } from 'vitest';
import type { AdapterLayer, AdapterWord } from '../../src/adapters/adapter.ts';
import { withOneAlpha } from '../../src/adapters/encode-layer.ts';
import { type ProgramName, programs } from '../../src/adapters/programs.ts';
import { type LayerFormat, schemes } from '../../src/adapters/schemes/index.ts';
import { memoryTensor, type RawTensor, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { adapterModuleId } from '../../src/models/families/adapter-layers.ts';
import { adapterFamily } from '../../src/models/families/families.ts';
import type { AdapterComponent } from '../../src/models/families/family.ts';
import { publishedLayers } from '../../src/models/families/known-layers.ts';
import { Pace } from '../../src/pace.ts';
import { INTEROP_LISTS, type InteropList, interopList } from '../support/interop.ts';

const numbers = new Uint8Array(new Float32Array(2000).fill(0.5).buffer);
const tensor = (...shape: number[]): RawTensor =>
  memoryTensor('t', 'F32', shape, numbers.subarray(0, 4 * shape.reduce((size, axis) => size * axis, 1)));

interface Place {
  readonly component: AdapterComponent;
  readonly layerName: string;
  readonly kernel: readonly [number, number] | null;
}

/** Every layer, of small sizes: names are what is looked at. */
const [m, n] = [4, 4];

function placesOf(family: string): Place[] {
  return [...publishedLayers(adapterFamily(family))].map(({ component, layerName, kernel }) => ({
    component: component as AdapterComponent,
    layerName,
    kernel: kernel as Place['kernel'],
  }));
}

const lora = ({ component, layerName, kernel }: Place, rank: number): AdapterLayer => ({
  component,
  layerName,
  kind: 'lora',
  up: tensor(m, rank, ...(kernel ?? []).map(() => 1)),
  down: tensor(rank, n, ...(kernel ?? [])),
  mid: null,
  rank,
  scale: 1,
  kernel,
  doraScale: null,
  biasDiff: null,
});

const flat = ({ kernel }: Place): number => n * (kernel?.[0] ?? 1) * (kernel?.[1] ?? 1);
const bare = { rank: 1, scale: 1, doraScale: null, biasDiff: null } as const;

/** Layers of each kind. */
const KINDS: Readonly<Record<string, (place: Place, index: number) => AdapterLayer>> = {
  'mixed ranks': (place, index) => lora(place, 1 + (index % 2)),
  'Tucker core': (place) => {
    const { kernel } = place;
    if (kernel === null) return lora(place, 1);
    const mid = tensor(1, 1, ...kernel);
    return { ...lora(place, 1), up: tensor(m, 1, 1, 1), down: tensor(1, n, 1, 1), mid } as AdapterLayer;
  },
  LoHa: (place) => {
    const pair = { a: tensor(m, 1), b: tensor(1, flat(place)), core: null };
    return { ...place, ...bare, kind: 'loha', w1: pair, w2: pair };
  },
  LoKr: (place) => ({
    ...place,
    ...bare,
    kind: 'lokr',
    w1: { full: tensor(1, 1) },
    w2: { a: tensor(m, 1), b: tensor(1, flat(place)), core: null },
  }),
  'full difference': (place) => ({
    ...place,
    ...bare,
    rank: null,
    kind: 'diff',
    diff: tensor(m, n, ...(place.kernel ?? [])),
    biasDiff: tensor(m),
  }),
  DoRA: (place) => ({
    ...lora(place, 1),
    doraScale: tensor(1, n, ...(place.kernel ?? []).map(() => 1)),
  }),
};

/** Suffixes that a program reads, with those that must stand beside them. */
function groupsOf({ suffixes }: InteropList): readonly (readonly string[])[] {
  const groups = suffixes.lora.map(([up, down]) => [up!, down!]);
  const all = suffixes as Readonly<Record<string, readonly string[] | undefined>>;
  if (all.loha !== undefined) groups.push(all.loha.slice(0, 4));
  return groups;
}

/** Names of tensors that a program finds no place for. */
function leftOver(list: InteropList, names: readonly string[]): string[] {
  const layers = new Set(list.layers.flatMap(([, ...row]) => row));
  const nameRule = 'nameRule' in list.suffixes;
  const known = Object.values(list.suffixes as Readonly<Record<string, unknown>>)
    .filter(Array.isArray)
    .flat(2) as string[];
  const longestFirst = known.toSorted((one, other) => other.length - one.length);
  const groups = groupsOf(list);
  const own = new Set(names);
  return names.filter((name) => {
    const suffix = nameRule ? name.slice(name.indexOf('.')) : longestFirst.find((end) => name.endsWith(end));
    if (suffix === undefined || !known.includes(suffix)) return true;
    const layer = name.slice(0, -suffix.length);
    if (!layers.has(layer)) return true;
    const group = groups.find((members) => members.includes(suffix));
    return group?.some((member) => !own.has(layer + member)) ?? false;
  });
}

const WRITTEN: readonly (readonly [string, readonly LayerFormat[], readonly string[]])[] = [
  ['comfyui', ['kohya', 'kohya-ldm', 'lycoris'], Object.keys(KINDS)],
  ['a1111', ['kohya', 'kohya-ldm', 'lycoris'], Object.keys(KINDS)],
  ['sd-scripts', ['kohya'], []],
];

describe.each(INTEROP_LISTS)('%s', (title) => {
  const list = interopList(title);
  const family = list.family === 'sd15' ? 'sd1' : 'sdxl';
  const places = placesOf(family);
  const name = title.slice(0, title.lastIndexOf('-')) as ProgramName;
  const [, formats, kinds] = WRITTEN.find(([program]) => program === name)!;
  const ids = new Set(places.map(adapterModuleId));
  const cases = formats.flatMap((format) =>
    Object.keys(KINDS)
      .filter((kind) => kind === 'mixed ranks' || (format === 'lycoris' && kinds.includes(kind)))
      .map((kind) => [format, kind] as const),
  );

  it.each(cases)('%s, %s: nothing is left over but what the table says', async (format, kind) => {
    const layers = withOneAlpha(places.map((place, index) => KINDS[kind]!(place, index)));
    const output = { architecture: family, layers, words: [], title };
    const [file] = await schemes[format].encode(output, layers, {
      target: 'lora.safetensors',
      pace: new Pace(),
    });
    const names = file!.tensors.map(({ name: own }) => own);
    const { ignores } = programs[name];
    const ignored = layers.filter((layer) => ignores(layer, { architecture: family, ids }) !== null);
    const stems = new Set(ignored.map((layer) => schemes[format].key!(layer, 'up', family).split('.')[0]!));
    const left = new Set(leftOver(list, names).map((own) => own.split('.')[0]!));
    expect([...left].sort()).toEqual([...stems].sort());
    const alphas = file!.tensors.filter(({ name: own }) => own.endsWith('.alpha'));
    if (kind === 'mixed ranks') {
      expect(new Set(alphas.map((alpha) => readFloat64(alpha)[0])).size).toBe(1);
    }
  });
});

describe('words', () => {
  const word = (encoder: AdapterWord['encoder'], width: number): AdapterWord => ({
    word: 'cat',
    embedding: tensor(1, width),
    rows: 'tokens',
    encoder,
  });

  it.each([
    ['sd1', [word('text_encoder', 768)], ['bundle_emb.cat.string_to_param.*']],
    [
      'sdxl',
      [word('text_encoder', 768), word('text_encoder_2', 1280)],
      ['bundle_emb.cat.clip_l', 'bundle_emb.cat.clip_g'],
    ],
  ] as const)('%s: inside a LoRA file by the names that A1111 reads', async (family, words, names) => {
    const layers = placesOf(family)
      .slice(0, 1)
      .map((place) => lora(place, 1));
    const output = { architecture: family, layers, words, title: 'words' };
    const [file] = await schemes.kohya.encode(output, layers, {
      target: 'lora.safetensors',
      pace: new Pace(),
    });
    const bundled = file!.tensors.map(({ name }) => name).filter((name) => name.startsWith('bundle_emb.'));
    expect(bundled).toEqual(names);
  });
});
