/**
 * Files of families whose layers are not listed here, read and written by their own names: every layer is called as the file
 * calls it, every tensor ends as it does there. ΔW = alpha / rank · up · down; where no alpha is stored, as PEFT's
 * configuration or the header's `lora_adapter_metadata` says, else up · down.
 */
import {
  float32Tensor,
  memoryTensor,
  type RawTensor,
  renamed,
  rowMajorStrides,
} from '../../formats/raw-tensor.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import * as path from '../../io/platform/paths.ts';
import { adapterModuleId } from '../../models/families/adapter-layers.ts';
import type { OwnSpelling } from '../../models/families/family.ts';
import type { AdapterLayer } from '../adapter.ts';
import { foldScale, foldWholeScale } from '../encode-layer.ts';
import { collectAdapterLayers } from '../layer-parts.ts';
import { sshsHashesOf } from '../metadata.ts';
import { bundledTensors } from '../word-forms.ts';
import { describe } from './describe.ts';
import { adapterMetadata, adapterScalings } from './diffusers.ts';
import { partTensors } from './factor-tensors.ts';
import { peftPrefix } from './layer-names.ts';
import { dottedOwn, ownKey, ownLayer, splitOwnName, storesAlpha, withNetwork } from './own-layers.ts';
import { adapterConfigName, readAdapterConfig } from './peft.ts';
import { peftScale, peftScaling } from './peft-names.ts';
import { type Content, isPlainLora, type ReadContext, type Scheme, type SchemeReader } from './scheme.ts';
import { type AdapterPart, partSuffix } from './suffixes.ts';
import { bundledWords, isBundledEmbedding } from './textual-inversion.ts';

/** How many tensors are of a layer's parts. */
const owned = (file: TensorFile): number =>
  [...file.tensors.keys()].filter((name) => splitOwnName(name) !== null).length;

function read(file: TensorFile, context: ReadContext): Content {
  const { architecture, component = null } = context;
  const tensors = [...file.tensors.values()];
  const spellings = new Map<string, { name: string; suffixes: Map<string, string> }>();
  const parse = (name: string) => {
    const split = splitOwnName(name);
    if (split === null) return null;
    const { part, suffix } = split;
    const layer = withNetwork(split.layer, component);
    const place = ownLayer(layer);
    const id = adapterModuleId(place);
    const spelling = spellings.get(id) ?? { name: layer, suffixes: new Map() };
    spellings.set(id, spelling);
    if (!spelling.suffixes.has(part)) spelling.suffixes.set(part, suffix);
    return { ...place, part };
  };
  const scalings = adapterScalings(file);
  const peft = peftOf(file, context);
  const collected = collectAdapterLayers(
    file.path,
    tensors.filter(({ name }) => !isBundledEmbedding(name)),
    {
      architecture,
      parse,
      scale: (place, rank, alpha) => {
        if (alpha !== null) return alpha / rank;
        const own = spellings.get(adapterModuleId(place))!;
        const scaling = peft ?? scalings.get(own.name.slice(0, own.name.indexOf('.')));
        return scaling === undefined ? 1 : peftScale(file.path, scaling, dottedOwn({ ...place, own })!, rank);
      },
      wholeScale: (place) => {
        const own = spellings.get(adapterModuleId(place))!;
        return peft === undefined ? 1 : peftScale(file.path, peft, dottedOwn({ ...place, own })!, null);
      },
    },
  );
  const layers = [...collected.layers].map(([id, layer]): [string, AdapterLayer] => [
    id,
    { ...layer, own: spellings.get(id) },
  ]);
  return { ...collected, layers: new Map(layers), words: bundledWords(file.path, tensors) };
}

/** Scaling of PEFT's files, whose configuration lies beside them; `undefined` for others. */
function peftOf(file: TensorFile, { config }: ReadContext) {
  if (![...file.tensors.keys()].some((name) => name.startsWith(peftPrefix))) return undefined;
  const place = path.join(path.dirname(file.path), adapterConfigName);
  return peftScaling(place, config ?? readAdapterConfig(file.path, place), { dora: true });
}

export const ownReader: SchemeReader = { name: 'own', examples: [], recognises: owned, read };

const partOf = new Map(Object.entries(partSuffix).map(([part, suffix]) => [suffix, part as AdapterPart]));

/** A layer as it is stored: its scale inside of it where the file's readers look for no alpha. */
function stored(layer: AdapterLayer): AdapterLayer {
  return layer.kind === 'lora' && !storesAlpha(layer.own!) ? foldScale(layer) : foldWholeScale(layer);
}

/** The tensors of a stored layer under the file's own names. */
function tensorsOf(layer: AdapterLayer, own: OwnSpelling): RawTensor[] {
  const tensors = partTensors(layer).map(([suffix, tensor]) => {
    const part = partOf.get(suffix)!;
    const key = ownKey(own, part);
    return renamed(part === 'dora' && key.includes('lora_magnitude_vector') ? asVector(tensor) : tensor, key);
  });
  if (layer.kind === 'ia3') {
    const onInput = Uint8Array.of(layer.onInput ? 1 : 0);
    tensors.push(memoryTensor(ownKey(own, 'onInput'), 'BOOL', [], onInput));
  }
  if (layer.rank !== null && (storesAlpha(own) || layer.scale !== 1)) {
    tensors.push(float32Tensor(ownKey(own, 'alpha'), [], Float32Array.of(layer.scale * layer.rank!)));
  }
  return tensors;
}

/** PEFT's magnitude: [m], of convolutions [1, m, 1, 1]. */
function asVector(tensor: RawTensor): RawTensor {
  const [m, ...others] = tensor.shape;
  const shape = others.length > 1 ? [1, m!, ...others.slice(1)] : [m!];
  return { ...tensor, shape, strides: rowMajorStrides(shape) };
}

/** diffusers' header for files in its own names, whose ranks may differ. */
function ranksForDiffusers(layers: readonly AdapterLayer[]): Record<string, string> {
  const own = layers.filter(isPlainLora).filter((layer) => !storesAlpha(layer.own!));
  return own.length < layers.length ? {} : adapterMetadata(own, (layer) => layer.own!.name);
}

export const ownNames: Scheme = {
  name: 'own',
  title: 'the file’s own names, for families that edlora does not draw (Flux, SD 3, video models, …)',
  reader: ownReader,
  folder: false,
  alpha: 'each',
  anyKind: true,
  words: 'tokens',
  secondEncoder: true,
  loses: 'words with one vector per cross-attention layer',
  refuses: (layer) =>
    layer.own === undefined
      ? 'its family has names in every scheme; choose one of those'
      : layer.kind === 'weight'
        ? 'a whole weight is no change of one'
        : null,
  key: null,
  encode: async (output, given, { pace }) => {
    const layers = given.map(stored);
    const factors = layers.flatMap((layer) => tensorsOf(layer, layer.own!));
    const tensors = [...factors, ...bundledTensors(output.words, 2)];
    const { modelHash } = await sshsHashesOf(tensors, {}, pace);
    const header = {
      ...describe(output),
      ...ranksForDiffusers(layers),
      format: 'pt',
      'modelspec.hash_sha256': `0x${modelHash}`,
    };
    return [{ place: '', tensors, header, layers, words: output.words }];
  },
};
