/**
 * Names of original single-file checkpoints (`model.diffusion_model.input_blocks.1.0.in_layers.2.weight`) against
 * diffusers' ones, for UNet and autoencoder. Numbers follow from the block structure, so any depth works.
 * Source: module nesting of CompVis/latent-diffusion (openaimodel.py, model.py).
 */
import type { UnetConfig } from '../unet/config.ts';

/** Both directions of one network's names. */
export interface NameMap {
  /** Name inside the single file; `null` for a name that the network does not have. */
  toLdm(paramName: string): string | null;
  /** diffusers' name; `null` for a name that is not this network's. */
  fromLdm(name: string): string | null;
}

/** What numbers the UNet's blocks. */
export interface UnetStructure {
  /** ResNet layers of a down block; up blocks have one more. */
  readonly layersPerBlock: number;
  /** Per down block, whether it has attention. */
  readonly downAttention: readonly boolean[];
  readonly upAttention: readonly boolean[];
}

/** What numbers the blocks of a UNet of this configuration. */
export function ldmStructureOf({ blocks, layersPerBlock }: UnetConfig): UnetStructure {
  const downAttention = blocks.map(({ crossAttention }) => crossAttention);
  return { layersPerBlock, downAttention, upAttention: downAttention.toReversed() };
}

type Pair = readonly [diffusers: string, ldm: string];

const unetResnet: readonly Pair[] = [
  ['norm1', 'in_layers.0'],
  ['conv1', 'in_layers.2'],
  ['time_emb_proj', 'emb_layers.1'],
  ['norm2', 'out_layers.0'],
  ['conv2', 'out_layers.3'],
  ['conv_shortcut', 'skip_connection'],
];

const vaeResnet: readonly Pair[] = [
  ['norm1', 'norm1'],
  ['conv1', 'conv1'],
  ['norm2', 'norm2'],
  ['conv2', 'conv2'],
  ['conv_shortcut', 'nin_shortcut'],
];

const vaeAttention: readonly Pair[] = [
  ['group_norm', 'norm'],
  ['to_q', 'q'],
  ['to_k', 'k'],
  ['to_v', 'v'],
  ['to_out.0', 'proj_out'],
];

/** The same by converters that took diffusers' names over, new and old. */
const vaeAttentionReadToo: readonly Pair[] = [
  ['group_norm', 'group_norm'],
  ['to_q', 'to_q'],
  ['to_k', 'to_k'],
  ['to_v', 'to_v'],
  ['to_out.0', 'to_out.0'],
  ['to_q', 'query'],
  ['to_k', 'key'],
  ['to_v', 'value'],
  ['to_out.0', 'proj_attn'],
];

function below(diffusers: string, ldm: string, pairs: readonly Pair[]): Pair[] {
  return pairs.map(([a, b]) => [`${diffusers}.${a}`, `${ldm}.${b}`]);
}

/** Names of the UNet. */
export function ldmUnetNames({ layersPerBlock, downAttention, upAttention }: UnetStructure): NameMap {
  const pairs: Pair[] = [
    ['conv_in', 'input_blocks.0.0'],
    ['time_embedding.linear_1', 'time_embed.0'],
    ['time_embedding.linear_2', 'time_embed.2'],
    ['add_embedding.linear_1', 'label_emb.0.0'],
    ['add_embedding.linear_2', 'label_emb.0.2'],
    ['conv_norm_out', 'out.0'],
    ['conv_out', 'out.2'],
    ...below('mid_block.resnets.0', 'middle_block.0', unetResnet),
    ['mid_block.attentions.0', 'middle_block.1'],
    ...below('mid_block.resnets.1', 'middle_block.2', unetResnet),
  ];
  downAttention.forEach((attention, i) => {
    const first = 1 + i * (layersPerBlock + 1);
    for (let j = 0; j < layersPerBlock; j++) {
      pairs.push(...below(`down_blocks.${i}.resnets.${j}`, `input_blocks.${first + j}.0`, unetResnet));
      if (attention) pairs.push([`down_blocks.${i}.attentions.${j}`, `input_blocks.${first + j}.1`]);
    }
    if (i < downAttention.length - 1) {
      pairs.push([`down_blocks.${i}.downsamplers.0.conv`, `input_blocks.${first + layersPerBlock}.0.op`]);
    }
  });
  upAttention.forEach((attention, i) => {
    const first = i * (layersPerBlock + 1);
    for (let j = 0; j <= layersPerBlock; j++) {
      pairs.push(...below(`up_blocks.${i}.resnets.${j}`, `output_blocks.${first + j}.0`, unetResnet));
      if (attention) pairs.push([`up_blocks.${i}.attentions.${j}`, `output_blocks.${first + j}.1`]);
    }
    if (i < upAttention.length - 1) {
      // Comes after the attention, where there is one.
      const place = attention ? 2 : 1;
      pairs.push([
        `up_blocks.${i}.upsamplers.0.conv`,
        `output_blocks.${first + layersPerBlock}.${place}.conv`,
      ]);
    }
  });
  return nameMap('model.diffusion_model.', pairs);
}

/** Names of the VAE. @param blocks number of down blocks (and of up blocks) @param layersPerBlock of a down block */
export function ldmVaeNames({ blocks, layersPerBlock }: { blocks: number; layersPerBlock: number }): NameMap {
  const pairs: Pair[] = [
    ['quant_conv', 'quant_conv'],
    ['post_quant_conv', 'post_quant_conv'],
  ];
  const readToo: Pair[] = [];
  for (const half of ['encoder', 'decoder']) {
    readToo.push(...below(`${half}.mid_block.attentions.0`, `${half}.mid.attn_1`, vaeAttentionReadToo));
    pairs.push(
      [`${half}.conv_in`, `${half}.conv_in`],
      [`${half}.conv_out`, `${half}.conv_out`],
      [`${half}.conv_norm_out`, `${half}.norm_out`],
      ...below(`${half}.mid_block.resnets.0`, `${half}.mid.block_1`, vaeResnet),
      ...below(`${half}.mid_block.attentions.0`, `${half}.mid.attn_1`, vaeAttention),
      ...below(`${half}.mid_block.resnets.1`, `${half}.mid.block_2`, vaeResnet),
    );
  }
  for (let i = 0; i < blocks; i++) {
    for (let j = 0; j < layersPerBlock; j++) {
      pairs.push(
        ...below(`encoder.down_blocks.${i}.resnets.${j}`, `encoder.down.${i}.block.${j}`, vaeResnet),
      );
    }
    // The original counts up blocks from the full resolution, diffusers from the latents.
    const up = `decoder.up.${blocks - 1 - i}`;
    for (let j = 0; j <= layersPerBlock; j++) {
      pairs.push(...below(`decoder.up_blocks.${i}.resnets.${j}`, `${up}.block.${j}`, vaeResnet));
    }
    if (i < blocks - 1) {
      pairs.push(
        [`encoder.down_blocks.${i}.downsamplers.0.conv`, `encoder.down.${i}.downsample.conv`],
        [`decoder.up_blocks.${i}.upsamplers.0.conv`, `${up}.upsample.conv`],
      );
    }
  }
  return nameMap('first_stage_model.', pairs, readToo);
}

/**
 * Whether a VAE parameter is a matrix for diffusers and a 1×1 convolution `[C, C, 1, 1]` in single files: the linear
 * layers of its attention.
 */
export function isVaeAttentionMatrix(paramName: string): boolean {
  return /\.attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight$/.test(paramName);
}

/**
 * Names in a single file that no network needs: the schedule's buffers, averaged copies of weights, training state.
 */
export function isIgnoredInSingleFile(name: string): boolean {
  return (
    /^(betas|alphas_cumprod(_prev)?|(sqrt|log|posterior|lvlb|logvar|model_ema|scale_factor)[\w.]*)$/.test(
      name,
    ) ||
    name.startsWith('first_stage_model.loss.') ||
    name === 'cond_stage_model.transformer.text_model.embeddings.position_ids'
  );
}

/** Names map when a beginning of them does, up to a dot; the rest is the same on both sides. */
function nameMap(ldmPrefix: string, pairs: readonly Pair[], readToo: readonly Pair[] = []): NameMap {
  const forward = new Map(pairs);
  const backward = new Map([...pairs, ...readToo].map(([diffusers, ldm]) => [ldm, diffusers]));
  const translate = (name: string, names: ReadonlyMap<string, string>): string | null => {
    for (let end = name.length; end > 0; end = name.lastIndexOf('.', end - 1)) {
      const other = names.get(name.slice(0, end));
      if (other !== undefined) return other + name.slice(end);
    }
    return null;
  };
  return {
    toLdm(paramName) {
      const name = translate(paramName, forward);
      return name === null ? null : ldmPrefix + name;
    },
    fromLdm(name) {
      return name.startsWith(ldmPrefix) ? translate(name.slice(ldmPrefix.length), backward) : null;
    },
  };
}
