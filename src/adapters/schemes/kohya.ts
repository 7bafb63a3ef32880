/**
 * kohya's names and those that build on them: the same in the original's block numbers, and LyCORIS with its further kinds
 * of layers. Layers are ΔW = alpha / rank · up · down; embeddings may be bundled in.
 * Source: kohya-ss/sd-scripts, networks/lora.py; KohakuBlueleaf/LyCORIS, lycoris/kohya.py.
 */
import { UsageError } from '../../errors.ts';
import { float32Tensor, memoryTensor, type RawTensor, renamed } from '../../formats/raw-tensor.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { adapterModuleId, diffusersKohyaName, ldmKohyaName } from '../../models/families/adapter-layers.ts';
import { adapterFamily, layoutOf } from '../../models/families/families.ts';
import type { AdapterLayer, LoraLayer } from '../adapter.ts';
import { foldWholeScale, loraAlphaOf } from '../encode-layer.ts';
import { networkMetadata, sshsHashesOf } from '../metadata.ts';
import { bundledTensors } from '../word-forms.ts';
import { describe, ranksOf } from './describe.ts';
import { factorTensors, partTensors } from './factor-tensors.ts';
import { isKohyaStyle } from './layer-names.ts';
import { layersAndWords } from './layers-and-words.ts';
import { parseAdapterName } from './names.ts';
import { underscoredOwn } from './own-layers.ts';
import type {
  Content,
  EncodeContext,
  EncodedFile,
  FactorKey,
  OutputAdapter,
  ReadContext,
  Scheme,
  SchemeReader,
} from './scheme.ts';
import { partSuffix } from './suffixes.ts';
import { isBundledEmbedding } from './textual-inversion.ts';

/** Suffixes of what is more than plain LoRA. */
const beyondLora = /\.(lora_mid\.weight|dora_scale|hada_\w+|lokr_\w+|diff|diff_b|on_input|scalar)$/;

const isLycoris = (name: string): boolean => beyondLora.test(name) || name.startsWith('lycoris_');

/** Words count beside layers; alone they are a file of embeddings. */
const owned = ({ tensors }: TensorFile): number => {
  const layers = [...tensors.keys()].filter(isKohyaStyle).length;
  return layers === 0 ? 0 : layers + [...tensors.keys()].filter(isBundledEmbedding).length;
};

function read(file: TensorFile, { architecture }: ReadContext): Content {
  const context = { architecture };
  return layersAndWords(file, {
    architecture,
    parse: (name) => parseAdapterName(name, context),
    // Also right for rank-stabilised LyCORIS files: they store alpha · √rank.
    scale: (_, rank, alpha) => (alpha ?? rank) / rank,
  });
}

const kohyaReader: SchemeReader = {
  name: 'kohya',
  examples: ['lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight'],
  recognises: (file) => ([...file.tensors.keys()].some(isLycoris) ? 0 : owned(file)),
  read,
};

const lycorisReader: SchemeReader = {
  name: 'lycoris',
  examples: ['lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.hada_w1_a'],
  recognises: (file) => ([...file.tensors.keys()].some(isLycoris) ? owned(file) : 0),
  read,
};

const keyBy =
  (numbering: 'diffusers' | 'ldm'): FactorKey =>
  (module, part, architecture) => {
    const own = underscoredOwn(module);
    if (own !== null) return `${own}.${partSuffix[part]}`;
    const name =
      numbering === 'ldm' || adapterFamily(architecture).adapters.kohyaNumbering === 'ldm'
        ? ldmKohyaName(architecture, module)
        : diffusersKohyaName(architecture, module);
    if (name === null) throw new UsageError(`${adapterModuleId(module)}: no such layer in ${architecture}`);
    return `${name}.${partSuffix[part]}`;
  };

const encodePlain =
  (key: FactorKey): Scheme['encode'] =>
  (output, stored, context) => {
    const tensors = (stored as readonly LoraLayer[]).flatMap((layer) => [
      ...factorTensors(layer, key, output.architecture),
      alphaTensor(key(layer, 'up', output.architecture), loraAlphaOf(layer)),
    ]);
    return encoded({ ...output, layers: stored }, tensors, context);
  };

/** Always float32: bfloat16 would round ranks above 256. */
function alphaTensor(upKey: string, loraAlpha: number): RawTensor {
  return float32Tensor(upKey.replace(partSuffix.up, partSuffix.alpha), [], Float32Array.of(loraAlpha));
}

const encodeLycoris: Scheme['encode'] = (output, stored, context) => {
  const key = keyBy('diffusers');
  const layers = stored.map(foldWholeScale);
  const tensors = layers.flatMap((layer) => {
    const stem = key(layer, 'up', output.architecture).slice(0, -partSuffix.up.length);
    const parts = partTensors(layer).map(([suffix, tensor]) => renamed(tensor, stem + suffix));
    if (layer.kind === 'ia3') {
      parts.push(memoryTensor(stem + partSuffix.onInput, 'BOOL', [], Uint8Array.of(layer.onInput ? 1 : 0)));
    } else if (layer.rank !== null) {
      parts.push(float32Tensor(stem + partSuffix.alpha, [], Float32Array.of(layer.scale * layer.rank)));
    }
    return parts;
  });
  return encoded({ ...output, layers }, tensors, context, { ss_network_module: 'lycoris.kohya' });
};

async function encoded(
  output: OutputAdapter,
  tensors: readonly RawTensor[],
  { pace }: EncodeContext,
  more: Readonly<Record<string, string>> = {},
): Promise<EncodedFile[]> {
  const { layers, architecture, words, title, metadata } = output;
  const layout = layoutOf(architecture);
  const encoders = layout === null ? 2 : Object.keys(layout.textEncoders).length;
  const all = [...tensors, ...bundledTensors(words, encoders)];
  const alphas = new Set(
    layers.map((layer) => (layer.rank === null ? null : Math.fround(layer.scale * layer.rank))),
  );
  const alpha = alphas.size === 1 ? [...alphas][0]! : null;
  const { ss_v2, ss_base_model_version, ...plain } = networkMetadata({ title, ranks: ranksOf(layers) });
  const network: Record<string, string> = {
    ...plain,
    // Of other families the inputs' own headers know.
    ...(layout === null ? {} : { ss_v2: ss_v2!, ss_base_model_version: layout.kohyaVersion }),
    ss_network_alpha: alpha === null ? 'Dynamic' : String(alpha),
    ...more,
  };
  const kept = Object.fromEntries(
    Object.entries(metadata ?? {}).filter(([key]) => key.startsWith('ss_') && !(key in network)),
  );
  const { modelHash, legacyHash } = await sshsHashesOf(all, { ...kept, ...network }, pace);
  const header = {
    ...describe(output),
    ...network,
    format: 'pt',
    'modelspec.hash_sha256': `0x${modelHash}`,
    sshs_model_hash: modelHash,
    sshs_legacy_hash: legacyHash,
  };
  return [{ place: '', tensors: all, header, layers, words }];
}

/** Why a layer that is not listed has no name here. */
function refusedOwn(layer: AdapterLayer): string | null {
  return layer.own !== undefined && underscoredOwn(layer) === null
    ? 'which number kohya gives this text encoder is not known'
    : null;
}

const common = { folder: false, alpha: 'one', words: 'tokens', secondEncoder: true } as const;

export const kohya: Scheme = {
  ...common,
  name: 'kohya',
  title: 'kohya (sd-scripts, A1111, ComfyUI): one safetensors file; SDXL in block numbers of the original',
  reader: kohyaReader,
  anyKind: false,
  loses: 'words with one vector per cross-attention layer; differences of biases',
  refuses: refusedOwn,
  key: keyBy('diffusers'),
  encode: encodePlain(keyBy('diffusers')),
};

export const kohyaLdm: Scheme = {
  ...kohya,
  name: 'kohya-ldm',
  title: 'kohya with the original block numbers (input_blocks, middle_block, output_blocks)',
  loses: 'as kohya',
  key: keyBy('ldm'),
  encode: encodePlain(keyBy('ldm')),
};

export const lycoris: Scheme = {
  ...common,
  name: 'lycoris',
  title: 'LyCORIS over kohya’s names: LoCon, LoHa, LoKr, (IA)³, full differences, DoRA stay as they are',
  reader: lycorisReader,
  anyKind: true,
  loses: 'words with one vector per cross-attention layer',
  refuses: (layer) => (layer.kind === 'weight' ? 'a whole weight is no change of one' : refusedOwn(layer)),
  key: keyBy('diffusers'),
  encode: encodeLycoris,
};
