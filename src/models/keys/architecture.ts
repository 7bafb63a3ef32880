/**
 * Which family a weight file is of, as far as its names and the width of its text context tell: enough to refuse a
 * LoRA or checkpoint of another one by name.
 */

export type ForeignArchitecture = 'SD 2.x' | 'SDXL' | 'SD 3' | 'Flux';

const signs: readonly (readonly [ForeignArchitecture, RegExp])[] = [
  ['Flux', /(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]/],
  [
    'SD 3',
    /(^|[._])joint_blocks[._]|^transformer\.transformer_blocks\.|^lora_transformer_transformer_blocks_/,
  ],
  ['SDXL', /^lora_te2_|^text_encoder_2\.|^conditioner\.embedders\.|(^|[._])(add_embedding|label_emb)[._]/],
  ['SDXL', /^lora_unet_(input|output)_blocks_|^lora_unet_middle_block_/],
  ['SDXL', /[._]transformer_blocks[._]([1-9]|\d\d)[._]/],
  ['SD 2.x', /^cond_stage_model\.model\.transformer\.resblocks\./],
];

/** Text encoder width that the cross-attention's keys and values expect. */
const widths: ReadonlyMap<number, ForeignArchitecture> = new Map([
  [1024, 'SD 2.x'],
  [2048, 'SDXL'],
  [4096, 'SD 3'],
]);

const contextLayer =
  /attn2[._](processor[._])?to_[kv][._](lora_down|lora_A|lora[._]down|weight)|attn2\.processor\.to_[kv]_lora\.down/;

/**
 * The family of a file that is not SD 1.x; `null` if nothing speaks against SD 1.x.
 * @param tensors name and shape of every tensor; `[…, width]` is read off down factors and weights of `attn2.to_k`/`to_v`
 */
export function foreignArchitecture(
  tensors: Iterable<{ readonly name: string; readonly shape: readonly number[] }>,
): ForeignArchitecture | null {
  const all = [...tensors];
  // Sign by sign over the whole file: Flux files hold names of SD 3's kind too.
  for (const [architecture, sign] of signs) {
    if (all.some(({ name }) => sign.test(name))) return architecture;
  }
  for (const { name, shape } of all) {
    const architecture = shape.length >= 2 && contextLayer.test(name) ? widths.get(shape[1]!) : undefined;
    if (architecture !== undefined) return architecture;
  }
  return null;
}
