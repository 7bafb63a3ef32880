/** Weight files of every container: opened, every tensor read, written again in the other container, read back. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { inspect } from '../../../src/concepts/inspect.ts';
import { ByteReader, memoryStorage } from '../../../src/formats/byte-reader.ts';
import { isDecodable } from '../../../src/formats/dtype.ts';
import { openTensorFile } from '../../../src/formats/open-tensor-file.ts';
import { unpickle } from '../../../src/formats/pickle.ts';
import { readBytes, readFloat32, readFloat64 } from '../../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../../src/formats/safetensors.ts';
import type { TensorFile } from '../../../src/formats/tensor-file.ts';
import { torchHost } from '../../../src/formats/torch-host.ts';
import { flattenTensors } from '../../../src/formats/torch-names.ts';
import { plainTree } from '../../../src/formats/torch-value.ts';
import { writeTorchZip } from '../../../src/formats/torch-writer.ts';
import { readEntries } from '../mutate/zip.ts';
import { attempt, expectReadable, Finding, type Input, type Target } from '../target.ts';
import { fixture, fixturePath, plain, safetensors, seedFile, torch, torchZip } from './seeds.ts';

/** @throws Finding if what was written has other tensors than what was read */
function compare(before: TensorFile, after: TensorFile): void {
  if (after.tensors.size !== before.tensors.size) {
    throw new Finding(`${before.tensors.size} tensors were written, ${after.tensors.size} are read back`);
  }
}

async function exercise({ file, out, random }: Input): Promise<void> {
  if (random.chance(0.5)) await attempt(() => inspect(file));
  const opened = await openTensorFile(file);
  let whole = true;
  for (const tensor of opened.tensors.values()) {
    const read = await attempt(() => {
      readBytes(tensor);
      if (isDecodable(tensor.dtype)) {
        readFloat32(tensor);
        readFloat64(tensor);
      }
      return true;
    });
    whole &&= read === true;
  }
  if (!whole || random.chance(0.6)) return;
  const copy = path.join(out, 'copy.safetensors');
  const tensors = [...opened.tensors].map(([name, tensor]) => ({ ...tensor, name }));
  if (await attempt(() => writeSafetensors(copy, tensors, opened.metadata).then(() => true))) {
    compare(opened, await expectReadable('a safetensors copy', () => openTensorFile(copy)));
  }
  const { root } = opened;
  if (root === null) return;
  const torchCopy = path.join(out, 'copy.pt');
  if (await attempt(() => writeTorchZip(torchCopy, root).then(() => true))) {
    compare(opened, await expectReadable('a torch copy', () => openTensorFile(torchCopy)));
  }
}

const formats = 'goldens/formats';

const safetensorsTarget: Target = {
  name: 'safetensors',
  batch: 400,
  words: ['format', 'pt', '__metadata__'],
  seeds: async () => [
    ...['misc', 'header_order_differs', 'all_dtypes', 'header_escapes_and_padding'].map((name) => [
      seedFile(`${name}.safetensors`, 'safetensors', fixture(`${formats}/safetensors/${name}.safetensors`)),
    ]),
    [
      safetensors('a.safetensors', [plain('a.weight', 2, 3), plain('b', 4)], {
        format: 'pt',
        note: '{"a": [1, 2]}',
      }),
    ],
  ],
  run: exercise,
};

const zipTarget: Target = {
  name: 'torch-zip',
  batch: 400,
  seeds: async () => [
    ...[
      ...[
        'zip_nested.pt',
        'zip_bare_tensor.pt',
        'zip_protocol4.pt',
        'zip_deflated_optional.pt',
        'zip_js_keys.pt',
      ],
      ...['zip_protocol3_views.pt', 'zip_old_layout.pt', 'zip_exotic_float8_e5m2.pt', 'zip_saved_on_cuda.pt'],
      ...['a1111_embedding.pt', 'learned_embeds.bin', 'ldm_embedding_parameterdict.pt', 'lightning.ckpt'],
      'module_state_dict.bin',
    ].map((name) => [seedFile(name, 'torch-zip', fixture(`${formats}/${name}`))]),
    [await torchZip('own.pt', new Map([['a', new Map([['b.weight', torch(2, 3)]])]]))],
  ],
  run: exercise,
};

const legacyTarget: Target = {
  name: 'torch-legacy',
  batch: 400,
  seeds: async () =>
    [
      ...[
        'legacy_nested.pt',
        'legacy_bare_list.pt',
        'legacy_dtypes.pt',
        'legacy_js_keys.pt',
        'legacy_views.pt',
      ],
      ...['legacy_module_state_dict.bin', 'learned_embeds_legacy.bin', 'lightning_legacy.ckpt'],
    ].map((name) => [seedFile(name, 'torch-legacy', fixture(`${formats}/${name}`))]),
  run: exercise,
};

/** Few bytes that stand for very many values: each step puts the last value into a tuple or list twice. */
const DOUBLING = [
  `\x80\x02}K\x01${'2\x86'.repeat(20)}K\x01s.`,
  `\x80\x02]K\x01${'2\x86'.repeat(20)}a.`,
  `\x80\x02}U\x01a${'2\x86'.repeat(12)}K\x01sU\x01b}U\x01cK\x02ss.`,
  `\x80\x02]q\x00${'(h\x00h\x00lq\x00'.repeat(16)}.`,
];

/** The pickle alone, without the archive around it: ten times as many inputs a second. */
const pickleTarget: Target = {
  name: 'pickle',
  batch: 2000,
  inMemory: true,
  seeds: async () => [
    ...[
      ...['zip_nested.pt', 'zip_js_keys.pt', 'zip_protocol4.pt', 'a1111_embedding.pt', 'lightning.ckpt'],
      'zip_views.pt',
    ].map((name) => {
      const entries = readEntries(fixture(`${formats}/${name}`));
      const { data } = entries.find((entry) => entry.name.endsWith('data.pkl'))!;
      return [seedFile('data.pkl', 'torch-pickle', data)];
    }),
    ...DOUBLING.map((text) => [seedFile('data.pkl', 'torch-pickle', Buffer.from(text, 'latin1'))]),
  ],
  run: async ({ bytes }) => {
    const storage = memoryStorage(new Uint8Array(1 << 12));
    const host = torchHost(() => storage);
    const size = bytes.length;
    const value = unpickle(ByteReader.ofBytes('data.pkl', 'pickle', bytes), host, size);
    flattenTensors('data.pkl', plainTree('data.pkl', value, size), size);
  },
};

const shardedTarget: Target = {
  name: 'sharded',
  batch: 400,
  words: [
    'weight_map',
    'metadata',
    'total_size',
    'model-00001-of-00002.safetensors',
    '../x.safetensors',
    '/dev/zero',
  ],
  seeds: async () => {
    const folder = `${formats}/safetensors/sharded`;
    const [first, second] = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const;
    return [
      [
        seedFile('model.safetensors.index.json', 'json', fixture(`${folder}/model.safetensors.index.json`)),
        seedFile(first, 'safetensors', fixture(`${folder}/${first}`)),
        seedFile(second, 'safetensors', fixture(`${folder}/${second}`)),
      ],
    ];
  },
  run: exercise,
};

/** Files made to do harm, damaged further. */
const hostileTarget: Target = {
  name: 'hostile',
  batch: 400,
  seeds: async () => {
    const folder = 'goldens/hostile';
    return readdirSync(fixturePath(folder))
      .filter((name) => /\.(pt|bin|safetensors)$/.test(name))
      .sort()
      .map((name) => {
        const bytes = fixture(`${folder}/${name}`);
        const form = name.endsWith('.safetensors')
          ? 'binary'
          : bytes.toString('latin1', 0, 2) === 'PK'
            ? 'torch-zip'
            : 'torch-legacy';
        return [seedFile(name, form, bytes)];
      });
  },
  run: exercise,
};

export const weightTargets: readonly Target[] = [
  safetensorsTarget,
  zipTarget,
  legacyTarget,
  pickleTarget,
  shardedTarget,
  hostileTarget,
];
