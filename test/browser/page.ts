/** What a page does with a dropped LoRA: looks into it, converts it, merges it with itself. */
import { inspect } from '../../src/concepts/inspect.ts';
import { putFile, readFileSync } from '../../src/io/platform/disk.browser.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';

export interface PageResult {
  readonly kind: string;
  /** Of the concept. */
  readonly words: readonly string[];
  readonly layers: number;
  /** The results' bytes. */
  readonly converted: Uint8Array;
  readonly merged: Uint8Array;
}

/**
 * @param bytes   of a kohya LoRA
 * @param concept of an ED-LoRA in PyTorch's format
 */
export async function work(
  bytes: Uint8Array<ArrayBuffer>,
  concept: Uint8Array<ArrayBuffer>,
): Promise<PageResult> {
  putFile('/dropped/concept.pth', concept);
  const { tokens } = await inspect('/dropped/concept.pth');
  putFile('/dropped/lora.safetensors', bytes);
  const input = '/dropped/lora.safetensors';
  const { kind } = await inspect(input);
  const { layers } = await convertFile({
    input,
    format: 'diffusers',
    out: '/dropped/converted.safetensors',
  });
  await mergeFiles({
    inputs: [
      { path: input, strength: 0.5, textEncoderStrength: null, blockWeights: null },
      {
        path: '/dropped/converted.safetensors',
        strength: 0.25,
        textEncoderStrength: null,
        blockWeights: null,
      },
    ],
    method: 'svd',
    rank: 2,
    out: '/dropped/merged.safetensors',
  });
  return {
    kind,
    words: tokens.map(({ word }) => word),
    layers,
    converted: readFileSync('/dropped/converted.safetensors'),
    merged: readFileSync('/dropped/merged.safetensors'),
  };
}
