/**
 * LoRA files in ComfyUI's own names, as its "save LoRA" nodes write them: `diffusion_model.<original path>` and
 * `text_encoders.clip_l.transformer.<path>`, with any program's suffixes. ΔW = alpha / rank · up · down; 1 without an alpha.
 */
import { isComfyStyle } from './layer-names.ts';
import { layersAndWords } from './layers-and-words.ts';
import { parseAdapterName } from './names.ts';
import type { SchemeReader } from './scheme.ts';
import { splitName } from './suffixes.ts';

export const comfyReader: SchemeReader = {
  name: 'comfyui',
  examples: ['diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_down.weight'],
  recognises: (file) =>
    [...file.tensors.keys()].filter((name) => isComfyStyle(name) && splitName(name) !== null).length,
  read: (file, { architecture }) => {
    const context = { architecture };
    return layersAndWords(file, {
      architecture,
      parse: (name) => parseAdapterName(name, context),
      scale: (_, rank, alpha) => (alpha ?? rank) / rank,
    });
  },
};
