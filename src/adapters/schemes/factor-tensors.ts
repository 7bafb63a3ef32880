/** Layers as tensors: the factors of plain LoRA under a scheme's names, or every part by LyCORIS' suffixes. */
import { UsageError } from '../../errors.ts';
import { type RawTensor, renamed } from '../../formats/raw-tensor.ts';
import { adapterModuleId } from '../../models/families/adapter-layers.ts';
import type { AdapterLayer, Architecture, LoraLayer } from '../adapter.ts';
import type { FactorKey } from './scheme.ts';
import { partSuffix } from './suffixes.ts';

/** Tensors of a plain LoRA layer under the scheme's names, without alpha. */
export function factorTensors(layer: LoraLayer, key: FactorKey, architecture: Architecture): RawTensor[] {
  return [
    renamed(layer.down, key(layer, 'down', architecture)),
    renamed(layer.up, key(layer, 'up', architecture)),
  ];
}

/** Every tensor of a layer of any kind, by its LyCORIS suffix; alpha and `on_input` not included. */
export function partTensors(layer: AdapterLayer): [suffix: string, tensor: RawTensor][] {
  const pair = (
    names: readonly [string, string, string],
    { a, b, core }: { a: RawTensor; b: RawTensor; core: RawTensor | null },
  ): [string, RawTensor][] => [
    [names[0], a],
    [names[1], b],
    ...(core === null ? [] : [[names[2], core] as [string, RawTensor]]),
  ];
  const own = ((): [string, RawTensor][] => {
    switch (layer.kind) {
      case 'lora':
        return [
          [partSuffix.up, layer.up],
          [partSuffix.down, layer.down],
          ...(layer.mid === null ? [] : [[partSuffix.mid, layer.mid] as [string, RawTensor]]),
        ];
      case 'loha':
        return [
          ...pair([partSuffix.w1a, partSuffix.w1b, partSuffix.t1], layer.w1),
          ...pair([partSuffix.w2a, partSuffix.w2b, partSuffix.t2], layer.w2),
        ];
      case 'lokr':
        return [
          ...('full' in layer.w1
            ? [[partSuffix.k1, layer.w1.full] as [string, RawTensor]]
            : pair([partSuffix.k1a, partSuffix.k1b, partSuffix.k1t], layer.w1)),
          ...('full' in layer.w2
            ? [[partSuffix.k2, layer.w2.full] as [string, RawTensor]]
            : pair([partSuffix.k2a, partSuffix.k2b, partSuffix.k2t], layer.w2)),
        ];
      case 'ia3':
        return [[partSuffix.ia3, layer.weight]];
      case 'diff':
        return [[partSuffix.diff, layer.diff]];
      case 'weight':
        throw new UsageError(`internal: ${adapterModuleId(layer)}: a whole weight has no LyCORIS form`);
    }
  })();
  if (layer.doraScale !== null) own.push([partSuffix.dora, layer.doraScale]);
  if (layer.biasDiff !== null) own.push([partSuffix.biasDiff, layer.biasDiff]);
  return own;
}
