/** How often the detector finds what was asked for: a concept, or a coloured shape. */
import { CONCEPT_THRESHOLDS, conceptScore } from '../support/shapeland/concept-detector.ts';
import { detect } from '../support/shapeland/detect.ts';
import { COLOURS, type ConceptName, SHAPES } from '../support/shapeland/world.ts';
import { type DrawingModel, draw, type Sampling } from './draw.ts';

/** As in the miniature's table. */
export const CONCEPT_TEMPLATES = [
  'photo of a {}',
  'a {} on a blue background',
  'a photo of a {} on a green background',
  'a picture of a {} on a gray background',
];

/** `smiley` → `<smiley1> <smiley2>` */
export const wordsOf = (concept: string): string => `<${concept}1> <${concept}2>`;

/** How the pictures are drawn, where not as in the miniature's table. */
export interface RateOptions {
  readonly sampling?: Sampling;
  readonly seed?: number;
}

/** Share of pictures in which the concept is found, and the mean score. */
export async function identityRate(
  model: DrawingModel,
  concept: ConceptName,
  samples: number,
  { sampling, seed = 11 }: RateOptions = {},
): Promise<{ rate: number; score: number }> {
  const prompts = Array.from({ length: samples }, (_, i) =>
    CONCEPT_TEMPLATES[i % CONCEPT_TEMPLATES.length]!.replace('{}', wordsOf(concept)),
  );
  const pictures = await draw(model, prompts, { seed, sampling });
  const scores = pictures.map((picture) => conceptScore(picture, concept).score);
  return {
    rate: scores.filter((score) => score >= CONCEPT_THRESHOLDS[concept]).length / samples,
    score: scores.reduce((a, b) => a + b, 0) / samples,
  };
}

/** Every k-th of all pairs of colour and shape, `count` of them. */
export function otherPairs(count: number): { colour: string; shape: string }[] {
  const pairs = Object.keys(COLOURS).flatMap((colour) => SHAPES.map((shape) => ({ colour, shape })));
  // 37 shares no divisor with the 80 pairs: the walk meets colours and shapes evenly.
  return Array.from({ length: count }, (_, i) => pairs[(i * 37 + 5) % pairs.length]!);
}

/** Share of "photo of a COLOUR SHAPE" in which both words are right. */
export async function otherPromptsRate(
  model: DrawingModel,
  samples: number,
  { sampling, seed = 3 }: RateOptions = {},
): Promise<number> {
  const pairs = otherPairs(samples);
  const prompts = pairs.map(({ colour, shape }) => `photo of a ${colour} ${shape}`);
  const pictures = await draw(model, prompts, { seed, sampling });
  const right = pictures.filter((picture, i) => {
    const found = detect(picture);
    return found !== null && found.colour === pairs[i]!.colour && found.shape === pairs[i]!.shape;
  });
  return right.length / samples;
}
