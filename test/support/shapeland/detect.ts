/** Colour, shape and ground of the main object of a picture. */
import type { Picture } from './picture.ts';
import { type Plane, plane, resizeTriangle } from './raster.ts';
import { erode, median, segment } from './segment.ts';
import {
  COLOURS,
  type Colour,
  colourDistance,
  finishMask,
  GROUNDS,
  type Ground,
  SHAPES,
  type Shape,
  shapeMask,
} from './world.ts';

export interface SeenObject {
  readonly colour: Colour;
  readonly shape: Shape;
  /** Overlap with the best shape's outline, less a penalty for another aspect ratio. */
  readonly iou: number;
  /** Middle of the object's bounding box, pixels. */
  readonly cx: number;
  readonly cy: number;
  /** Pixels. */
  readonly area: number;
  /** Median colour of the object's core. */
  readonly rgb: readonly number[];
}

export interface Detection extends SeenObject {
  readonly ground: Ground;
}

interface Bounds {
  readonly x0: number;
  readonly y0: number;
  readonly width: number;
  readonly height: number;
}

function boundsOf(mask: Uint8Array, width: number): Bounds {
  let [x0, y0, x1, y1] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, -1, -1];
  mask.forEach((value, at) => {
    if (value === 0) return;
    const [x, y] = [at % width, Math.floor(at / width)];
    [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x), Math.max(y1, y)];
  });
  return { x0, y0, width: x1 - x0 + 1, height: y1 - y0 + 1 };
}

function cut(mask: Uint8Array, width: number, bounds: Bounds, value: number): Plane {
  const out = plane(bounds.width, bounds.height);
  for (let y = 0; y < bounds.height; y++) {
    for (let x = 0; x < bounds.width; x++) {
      if (mask[(bounds.y0 + y) * width + bounds.x0 + x] !== 0) out.data[y * bounds.width + x] = value;
    }
  }
  return out;
}

/** Outlines at radius 26, cut to their bounding boxes, 255 inside. */
const OUTLINES = new Map<Shape, Plane>();

function outlineOf(shape: Shape): Plane {
  const known = OUTLINES.get(shape);
  if (known !== undefined) return known;
  const mask = finishMask(shapeMask(shape, 64, 64, { cx: 32, cy: 32, radius: 26 }));
  const outline = cut(mask, 64, boundsOf(mask, 64), 255);
  OUTLINES.set(shape, outline);
  return outline;
}

function nearest<K extends string>(table: Readonly<Record<K, readonly number[]>>, rgb: readonly number[]): K {
  const names = Object.keys(table) as K[];
  const distances = names.map((name) => colourDistance(table[name], rgb));
  return names[distances.indexOf(Math.min(...distances))]!;
}

function medianColour(colours: ArrayLike<number>, chosen: (pixel: number) => boolean): number[] {
  return [0, 1, 2].map((c) =>
    median(
      Array.from({ length: colours.length / 3 }, (_, i) => i)
        .filter(chosen)
        .map((i) => colours[3 * i + c]!),
    ),
  );
}

function shapeScore(shape: Shape, object: Plane): number {
  const outline = outlineOf(shape);
  const fitted = resizeTriangle(outline, object.width, object.height);
  let [both, either] = [0, 0];
  object.data.forEach((value, at) => {
    const inside = fitted.data[at]! > 127;
    if (value !== 0 && inside) both++;
    if (value !== 0 || inside) either++;
  });
  const aspect = Math.abs(Math.log(object.width / object.height / (outline.width / outline.height)));
  return both / Math.max(1, either) - 0.35 * aspect;
}

const count = (pixels: Uint8Array): number => pixels.reduce((a, b) => a + b, 0);

/** Colour and shape of what a mask covers. */
export function describeObject({ width, height, data }: Picture, mask: Uint8Array): SeenObject {
  // Colour is read inside the object, away from its soft edge, as far as it is thick enough.
  const once = erode(mask, width, height);
  const twice = erode(once, width, height);
  const core = [twice, once, mask].find((pixels, i) => count(pixels) >= [12, 6, 0][i]!)!;
  const rgb = medianColour(data, (i) => core[i] !== 0);
  const bounds = boundsOf(mask, width);
  const object = cut(mask, width, bounds, 1);
  const scores = SHAPES.map((shape) => shapeScore(shape, object));
  const iou = Math.max(...scores);
  return {
    colour: nearest(COLOURS, rgb),
    shape: SHAPES[scores.indexOf(iou)]!,
    iou,
    cx: bounds.x0 + bounds.width / 2,
    cy: bounds.y0 + bounds.height / 2,
    area: count(mask),
    rgb,
  };
}

/** The main object, or `null` if there is none of at least 60 pixels. */
export function detect(picture: Picture): Detection | null {
  const { ground, mask } = segment(picture);
  if (count(mask) < 60) return null;
  const colour = medianColour(ground, () => true);
  return { ...describeObject(picture, mask), ground: nearest(GROUNDS, colour) };
}
