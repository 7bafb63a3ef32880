/** From a picture's caption to the prompt of one step. */
import type { TorchGenerator } from '../../tensor/random.ts';
import { PROMPT_TEMPLATES } from './prompt-templates.ts';

/** Stands for the concept's words in captions. */
export const PLACEHOLDER = '<TOK>';

export interface CaptionOptions {
  readonly templates: 'none' | 'object' | 'style';
  readonly shuffleCaptions: boolean;
  /** Leading parts between commas that keep their place. */
  readonly keepParts: number;
  /** Chance of an empty caption. */
  readonly captionDropout: number;
}

/** The caption with the words in it: `<TOK>` is replaced, single spaces. */
export function withWords(caption: string, words: readonly string[]): string {
  return caption.replaceAll(PLACEHOLDER, words.join(' ')).replace(/ +/g, ' ').trim();
}

/** One prompt: shuffled, templated or dropped, as asked for. Draws nothing that is not asked for. */
export function drawCaption(
  caption: string,
  { templates, shuffleCaptions, keepParts, captionDropout }: CaptionOptions,
  random: TorchGenerator,
): string {
  if (captionDropout > 0 && random.rand(1)[0]! < captionDropout) return '';
  let text = caption;
  if (shuffleCaptions) {
    const parts = text.split(',').map((part) => part.trim());
    const loose = parts.slice(keepParts);
    const order = random.randperm(loose.length);
    text = [...parts.slice(0, keepParts), ...order.map((i) => loose[i]!)].join(', ');
  }
  if (templates === 'none') return text;
  const list = templated(text, templates);
  return list[random.randint(0, list.length, 1)[0]!]!;
}

/** The caption in every template. */
export function templated(caption: string, templates: CaptionOptions['templates']): string[] {
  return templates === 'none'
    ? [caption]
    : PROMPT_TEMPLATES[templates].map((template) => template.replace('{}', () => caption));
}
