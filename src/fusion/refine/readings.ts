/** How the models of a refinement read prompts, what the base teaches by captions, and what steps cost a base of its size. */
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { TokenEncoder } from '../../models/families/conditioning.ts';
import { within } from '../../models/families/layer-table.ts';
import type { PromptIds } from '../../models/families/prompt-ids.ts';
import type { LayerDeltas, ModelDeltas } from '../../models/lora.ts';
import { denoisedCaptions } from '../captions.ts';
import type { LatentSize, PromptReader } from '../prompt-reader.ts';
import { conceptPrompts } from '../prompts.ts';
import { PromptReading } from './prompt-reading.ts';
import { REFINE_DEFAULTS, type RefineOptions } from './refine-options.ts';
import type { Teacher } from './refine-request.ts';
import type { RefinePrompt } from './refine-states.ts';
import { type RefineWork, refineWork } from './refine-work.ts';

/** Captions by which the base teaches, at most; one in five of them also judges, by other seeds. */
const TAUGHT_CAPTIONS = 64;
const JUDGING_CAPTION = 5;
/** Numbers of one picture in a UNet's first level up to which a whole batch is one pass. SD 1.5 has ten times as many. */
const SMALL_LEVEL = 2 ** 17;

/** A base with some changes, reading prompts with the words that a reader knows. */
export class ModelReading {
  readonly #reader: PromptReader;
  readonly #encoder: TokenEncoder;
  readonly #size: LatentSize;
  /** Changes of the UNet. */
  readonly deltas: LayerDeltas;

  /** @param size of the latents */
  constructor(reader: PromptReader, size: LatentSize, deltas: ModelDeltas = new Map()) {
    this.#reader = reader;
    this.#encoder = reader.encoder(deltas);
    this.#size = size;
    this.deltas = within('unet', deltas);
  }

  /** @param perLayer ids per cross-attention */
  async read(perLayer: readonly PromptIds[]): Promise<PromptReading> {
    return new PromptReading(await this.#reader.conditioning(perLayer, this.#encoder, this.#size));
  }

  /** Templates with a concept's name in place of `{}`. */
  async templates(name: string, templates: readonly string[]): Promise<PromptReading[]> {
    const readings: PromptReading[] = [];
    for (const ids of conceptPrompts(this.#reader.vocabulary, name, templates).padded) {
      readings.push(await this.read(ids));
    }
    return readings;
  }

  /** A text without words of concepts. */
  caption(text: string): Promise<PromptReading> {
    return this.read(this.#reader.everywhere(text));
  }

  async noPrompt(): Promise<PromptReading> {
    return new PromptReading(await this.#reader.noPrompt(this.#encoder, this.#size));
  }
}

/**
 * A concept as the teacher of its prompts.
 * @param own     its own model
 * @param student whose predictions are to be those
 */
export async function conceptTeacher(
  name: string,
  own: ModelReading,
  student: ModelReading,
  { taught, judging }: Readonly<Record<'taught' | 'judging', readonly string[]>>,
): Promise<Teacher> {
  const read = async (templates: readonly string[]): Promise<RefinePrompt[]> => {
    const byStudent = await student.templates(name, templates);
    return (await own.templates(name, templates)).map((reading, i) => ({
      own: reading,
      fused: byStudent[i]!,
    }));
  };
  return { name, deltas: own.deltas, prompts: await read(taught), heldOut: await read(judging) };
}

/** Captions of a list by which the base teaches. */
export function taughtCaptions(captions: readonly string[]): string[] {
  return captions.length === 0 ? [] : denoisedCaptions(captions, TAUGHT_CAPTIONS);
}

/** No prompt, as both read it. @param student whose predictions are to be the base's */
export async function noPromptOf(base: ModelReading, student: ModelReading): Promise<RefinePrompt> {
  return { own: await base.noPrompt(), fused: await student.noPrompt() };
}

/** The base as the teacher of captions; null without any. @param student whose predictions are to be the base's */
export async function captionTeacher(
  base: ModelReading,
  student: ModelReading,
  captions: readonly string[],
): Promise<Teacher | null> {
  if (captions.length === 0) return null;
  const taught: RefinePrompt[] = [];
  for (const caption of taughtCaptions(captions)) {
    taught.push({ own: await base.caption(caption), fused: await student.caption(caption) });
  }
  return {
    name: 'captions',
    deltas: base.deltas,
    prompts: taught,
    heldOut: taught.filter((_, i) => i % JUDGING_CAPTION === 0),
  };
}

/**
 * Work of a refinement whose teachers are so many concepts, by so many templates each, and the base by captions; all of them have
 * prompts to be judged by.
 */
export function workOf(
  options: RefineOptions,
  {
    teachers,
    templates,
    captions,
  }: { readonly teachers: number; readonly templates: number; readonly captions: readonly string[] },
): RefineWork {
  const taught = taughtCaptions(captions).length;
  const prompts = [...Array<number>(teachers).fill(templates), ...(taught === 0 ? [] : [taught])];
  return refineWork(options, prompts, prompts.length);
}

/** Options of a refinement of a base, by latents of this size. */
export function refineOptionsFor(
  base: Checkpoint,
  { height, width }: LatentSize,
  given: Pick<RefineOptions, 'steps'> & Partial<RefineOptions>,
): RefineOptions {
  const options = { ...REFINE_DEFAULTS, ...given };
  const { blocks } = base.parts.unet.config;
  // Of a larger model the way back of one guided picture takes as much memory as a step of training with two.
  return height * width * blocks[0]!.channels <= SMALL_LEVEL
    ? options
    : { ...options, picturesPerPass: 1, recomputeBlocks: true };
}
