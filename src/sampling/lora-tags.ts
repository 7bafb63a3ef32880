/** LoRAs called in a prompt, `<lora:file:0.8>`, as web UIs have it. */
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';

/** What a tag says. */
export interface LoraTag {
  /** A file, or the name of one that is loaded. */
  readonly name: string;
  readonly textEncoderStrength: number;
  readonly unetStrength: number;
}

const TAG = /<lora:([^<>]*)>/gi;
const NUMBER = /^\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*$/;

/**
 * Take the tags out of a prompt. `<lora:name>` is of strength 1, `<lora:name:0.8>` of that in both networks,
 * `<lora:name:0.5:0.8>` of 0.5 in the text encoder and 0.8 in the UNet.
 * Source of the order: AUTOMATIC1111 stable-diffusion-webui, extensions-builtin/Lora/extra_networks_lora.py.
 * @throws {UsageError} for a tag without a name, or with a strength that is no number
 */
export function takeLoraTags(prompt: string): { readonly prompt: string; readonly tags: readonly LoraTag[] } {
  const tags: LoraTag[] = [];
  const rest = prompt.replace(TAG, (tag, body: string) => {
    tags.push(parseTag(tag, body.split(':')));
    return '';
  });
  return tags.length === 0 ? { prompt, tags } : { prompt: rest.replace(/ {2,}/g, ' ').trim(), tags };
}

function parseTag(tag: string, parts: readonly string[]): LoraTag {
  // A drive letter's colon belongs to the name.
  const nameParts = /^[a-z]$/i.test(parts[0]!) && /^[\\/]/.test(parts[1] ?? '') ? 2 : 1;
  const name = parts.slice(0, nameParts).join(':').trim();
  const strengths = parts.slice(nameParts);
  const wrong = strengths.find((text) => !NUMBER.test(text));
  if (name === '' || strengths.length > 2 || wrong !== undefined) {
    throw new UsageError(
      `${excerpt(tag)}: expected <lora:file:0.8>, got ${name === '' ? 'no file' : wrong === undefined ? `${strengths.length} strengths` : `a strength of "${excerpt(wrong)}"`}`,
    );
  }
  const [textEncoderStrength = 1, unetStrength = textEncoderStrength] = strengths.map(Number);
  return { name, textEncoderStrength, unetStrength };
}
