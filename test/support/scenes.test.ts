import { readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { crop, type Picture, readPicture } from './shapeland/picture.ts';
import { detectAll, judgeScene, type NamedObject, namedScenes, type Order } from './shapeland/scenes.ts';

const folder = path.join(import.meta.dirname, '../../fixtures/tiny-world-xl/detector');

interface Case {
  text: string;
  x: number;
  y: number;
  width: number;
  height: number;
  found: { colour: string; shape: string; iou: number; cx: number; cy: number; area: number }[];
  judged: { objects: NamedObject[]; order: Order; all: boolean; placed: boolean; exact: boolean }[];
}
const cases = JSON.parse(readFileSync(path.join(folder, 'expected.json'), 'utf8')) as Case[];

let sheet: Picture;
beforeAll(async () => {
  sheet = await readPicture(path.join(folder, 'cases.png'));
});

describe('the detector of all objects, beside the Python one', () => {
  it.each(cases.map((each, i) => [`${i}: ${each.text}`, each] as const))('%s', (_, each) => {
    const { x, y, width, height, found, judged } = each;
    const picture = crop(sheet, x, y, width, height);
    const seen = detectAll(picture);
    expect(seen.map(({ colour, shape, cx, cy }) => ({ colour, shape, cx, cy }))).toEqual(
      found.map(({ colour, shape, cx, cy }) => ({ colour, shape, cx, cy })),
    );
    seen.forEach(({ iou, area }, i) => {
      // On a plain ground a pixel can be exactly at the threshold, where the last bit of the fit decides.
      expect(Math.abs(area - found[i]!.area)).toBeLessThanOrEqual(2);
      expect(iou).toBeCloseTo(found[i]!.iou, 2);
    });
    for (const { objects, order, ...verdict } of judged) {
      expect(judgeScene(picture, { objects, order }), JSON.stringify({ objects, order })).toEqual(verdict);
    }
  });
});

describe('prompts of several objects', () => {
  it('name each object once, with another colour and shape', () => {
    for (const objects of [1, 2, 3]) {
      for (const { text, objects: named } of namedScenes(20, objects, 1)) {
        expect(named).toHaveLength(objects);
        for (const words of named) expect(text.split(words.join(' '))).toHaveLength(2);
        expect(new Set(named.flat()).size).toBe(2 * objects);
      }
    }
  });

  it('are the same for the same seed, and say an order as often as not', () => {
    expect(namedScenes(9, 2, 3)).toEqual(namedScenes(9, 2, 3));
    const orders = namedScenes(60, 3, 1).map(({ order }) => order);
    for (const order of ['x', 'roof', null]) expect(orders).toContain(order);
  });
});
