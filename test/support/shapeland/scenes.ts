/**
 * Pictures of several objects: prompts that name one to three of them, what is in a picture, and whether that is what was asked for. A port of
 * fixtures/tiny-world-xl/scripts/scenes.py, held to it by fixtures/tiny-world-xl/detector.
 */
import { TorchGenerator } from '../../../src/tensor/random.ts';
import { describeObject, type SeenObject } from './detect.ts';
import type { Picture } from './picture.ts';
import { components, foreground, maskOf } from './segment.ts';
import { COLOURS, type Colour, SHAPES, type Shape } from './world.ts';

/** Least size of an object: pixels, and share of the picture. */
const SMALLEST = 24;
const SMALLEST_SHARE = 0.006;

/** Every object on a plain or shaded ground, the largest first. */
export function detectAll(picture: Picture): SeenObject[] {
  const { width, height } = picture;
  const { mask } = foreground(picture);
  const least = Math.max(SMALLEST, SMALLEST_SHARE * mask.length);
  return components(mask, width, height)
    .filter(({ length }) => length >= least)
    .map((pixels) => describeObject(picture, maskOf(pixels, mask.length)))
    .sort((a, b) => b.area - a.area);
}

export type NamedObject = readonly [colour: Colour, shape: Shape];

/** How named objects stand: in this order along an axis, or the first above the others; null where the text does not say. */
export type Order = 'x' | 'y' | 'roof' | null;

export interface NamedScene {
  readonly text: string;
  /** No two alike. */
  readonly objects: readonly NamedObject[];
  readonly order: Order;
}

export interface SceneVerdict {
  /** Every object is there, colour and shape. */
  readonly all: boolean;
  /** And where the text says. */
  readonly placed: boolean;
  /** And nothing else is. */
  readonly exact: boolean;
}

export function judgeScene(
  picture: Picture,
  { objects, order }: Pick<NamedScene, 'objects' | 'order'>,
): SceneVerdict {
  const seen = detectAll(picture);
  const at = objects.flatMap(([colour, shape]) => {
    const found = seen.find((object) => object.colour === colour && object.shape === shape);
    return found === undefined ? [] : [found];
  });
  const all = at.length === objects.length;
  const placed = all && stand(at, order);
  return { all, placed, exact: placed && seen.length === objects.length };
}

function stand(at: readonly SeenObject[], order: Order): boolean {
  const rising = (values: readonly number[]): boolean =>
    values.every((value, i) => i === 0 || values[i - 1]! < value);
  switch (order) {
    case null:
      return true;
    case 'x':
      return rising(at.map(({ cx }) => cx));
    case 'y':
      return rising(at.map(({ cy }) => cy));
    case 'roof':
      return at.slice(1).every(({ cy }) => at[0]!.cy < cy);
  }
}

/** Forms of prompts by number of objects; those without an order stand twice, as they are asked for more often. */
const FORMS: Readonly<Record<number, readonly (readonly [form: string, order: Order])[]>> = {
  1: [['photo of {}', null]],
  2: [
    ['{} and {}', null],
    ['{} and {}', null],
    ['photo of {} next to {}', null],
    ['{} to the left of {}', 'x'],
    ['a picture of {} to the left of {}', 'x'],
    ['{} above {}', 'y'],
  ],
  3: [
    ['{}, {} and {}', null],
    ['{}, {} and {}', null],
    ['photo of {}, {} and {}', null],
    ['{} and {} and {}', null],
    ['{} on the left, {} in the middle and {} on the right', 'x'],
    ['{} above {} and {}', 'roof'],
  ],
};

/** `red circle` → `a red circle` */
export const withArticle = (words: string): string => `${/^[aeiou]/.test(words) ? 'an' : 'a'} ${words}`;

/** Prompts of so many objects, the same for the same seed; colours and shapes of one differ. */
export function namedScenes(count: number, objects: number, seed: number): NamedScene[] {
  const random = new TorchGenerator(seed);
  const some = <T>(all: readonly T[]): T[] => [...random.randperm(all.length)].map((i) => all[i]!);
  return Array.from({ length: count }, () => {
    const colours = some(Object.keys(COLOURS) as Colour[]);
    const shapes = some(SHAPES);
    const named = Array.from({ length: objects }, (_, i): NamedObject => [colours[i]!, shapes[i]!]);
    const [form, order] = some(FORMS[objects]!)[0]!;
    let text = form;
    for (const words of named) text = text.replace('{}', withArticle(words.join(' ')));
    return { text, objects: named, order };
  });
}
