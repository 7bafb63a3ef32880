/**
 * The shapeland world that the shipped miniature model draws: colours, shapes, and the four concepts it was never
 * taught. Drawn four times as large, then averaged down. Leaves out gradients, patterns and captions.
 */
import type { Picture } from './picture.ts';
import {
  type Box,
  boxReduce,
  chord,
  ellipse,
  fillPlane,
  type Plane,
  pieslice,
  plane,
  polygon,
  rectangle,
  type Span,
} from './raster.ts';

export type Rgb = readonly [number, number, number];

export const COLOURS = {
  red: [222, 38, 38],
  green: [38, 158, 58],
  blue: [40, 72, 214],
  yellow: [244, 218, 36],
  purple: [132, 44, 176],
  orange: [242, 130, 24],
  white: [248, 248, 248],
  black: [18, 18, 18],
  cyan: [58, 206, 224],
  pink: [248, 140, 196],
} as const satisfies Record<string, Rgb>;

export const GROUNDS = {
  red: [160, 72, 72],
  green: [96, 146, 96],
  blue: [84, 108, 170],
  yellow: [212, 204, 126],
  purple: [122, 88, 148],
  orange: [206, 150, 96],
  white: [226, 226, 226],
  black: [44, 44, 44],
  cyan: [140, 200, 206],
  pink: [214, 168, 192],
  gray: [128, 128, 128],
} as const satisfies Record<string, Rgb>;

export const SHAPES = ['circle', 'square', 'triangle', 'star', 'cross', 'ring', 'heart', 'diamond'] as const;
export const CONCEPTS = ['smiley', 'bullseye', 'beachball', 'checker'] as const;

export type Colour = keyof typeof COLOURS;
export type Ground = keyof typeof GROUNDS;
export type Shape = (typeof SHAPES)[number];
export type ConceptName = (typeof CONCEPTS)[number];

/** Supersampling per axis. */
const SCALE = 4;

/** Distance of two colours. */
export function colourDistance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Math.hypot(a[0]! - b[0]!, a[1]! - b[1]!, a[2]! - b[2]!);
}

/** Where something is drawn: middle and radius in pixels of the finished picture. */
export interface Place {
  readonly cx: number;
  readonly cy: number;
  readonly radius: number;
}

type Points = readonly (readonly [number, number])[];

const STAR: Points = Array.from({ length: 10 }, (_, i) => {
  const angle = -Math.PI / 2 + (i * Math.PI) / 5;
  const reach = i % 2 === 0 ? 1.08 : 0.46;
  return [reach * Math.cos(angle), reach * Math.sin(angle) + 0.08] as const;
});

const HEART: Points = Array.from({ length: 48 }, (_, i) => {
  const t = (2 * Math.PI * i) / 48;
  const y = 13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t);
  return [(16 * Math.sin(t) ** 3) / 16.5, -(y + 2.5) / 16.5] as const;
});

const CROSS: Points = [
  [-0.34, -1],
  [0.34, -1],
  [0.34, -0.34],
  [1, -0.34],
  [1, 0.34],
  [0.34, 0.34],
  [0.34, 1],
  [-0.34, 1],
  [-0.34, 0.34],
  [-1, 0.34],
  [-1, -0.34],
  [-0.34, -0.34],
];

const POLYGONS: Readonly<Record<Exclude<Shape, 'circle' | 'ring'>, Points>> = {
  square: [
    [-0.86, -0.86],
    [0.86, -0.86],
    [0.86, 0.86],
    [-0.86, 0.86],
  ],
  triangle: [
    [0, -1],
    [1, 0.8],
    [-1, 0.8],
  ],
  star: STAR,
  cross: CROSS,
  heart: HEART,
  diamond: [
    [0, -1.06],
    [0.74, 0],
    [0, 1.06],
    [-0.74, 0],
  ],
};

function around(x: number, y: number, radius: number): Box {
  return { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius };
}

/** A canvas at drawing scale, SCALE times the finished size. */
export interface Canvas {
  readonly width: number;
  readonly height: number;
  /** Finished size. */
  readonly pixelWidth: number;
  readonly pixelHeight: number;
  readonly data: Uint8Array;
}

/** A canvas of one colour. `width` and `height` are those of the finished picture. */
export function canvas(width: number, height: number, colour: Rgb): Canvas {
  const data = new Uint8Array(width * height * SCALE * SCALE * 3);
  for (let i = 0; i < data.length; i++) data[i] = colour[i % 3]!;
  return { width: width * SCALE, height: height * SCALE, pixelWidth: width, pixelHeight: height, data };
}

/** The picture, averaged down to its finished size. */
export function finish(on: Canvas): Picture {
  const data = boxReduce(on.data, on.width, on.height, 3, SCALE);
  return { width: on.pixelWidth, height: on.pixelHeight, data };
}

/** A mask averaged down: true where more than half of the pixel is covered. */
export function finishMask(mask: Plane): Uint8Array {
  return boxReduce(mask.data, mask.width, mask.height, 1, SCALE).map((value) => (value > 127 ? 1 : 0));
}

/** The outline of a shape at drawing scale: 255 inside. */
export function shapeMask(shape: Shape, width: number, height: number, place: Place): Plane {
  const mask = plane(width * SCALE, height * SCALE);
  const [cx, cy, r] = [place.cx * SCALE, place.cy * SCALE, place.radius * SCALE];
  const inside = fillPlane(mask, 255);
  if (shape === 'circle' || shape === 'ring') {
    ellipse(around(cx, cy, r), inside);
    if (shape === 'ring') ellipse(around(cx, cy, 0.56 * r), fillPlane(mask, 0));
  } else {
    polygon(
      POLYGONS[shape].map(([x, y]) => [cx + x * r, cy + y * r] as const),
      inside,
    );
  }
  return mask;
}

/** A span function that writes a colour where the mask is set. */
function paintThrough(on: Canvas, mask: Plane, colour: Rgb): Span {
  return (y, left, right) => {
    if (y < 0 || y >= on.height) return;
    for (let x = Math.max(left, 0); x <= Math.min(right, on.width - 1); x++) {
      const at = y * on.width + x;
      if (mask.data[at] !== 0) on.data.set(colour, at * 3);
    }
  };
}

function everywhere(on: Canvas): Box {
  return { left: 0, top: 0, right: on.width, bottom: on.height };
}

/** Paint a shape of one colour. */
export function drawShape(on: Canvas, shape: Shape, colour: Rgb, place: Place): void {
  const mask = shapeMask(shape, on.pixelWidth, on.pixelHeight, place);
  rectangle(everywhere(on), paintThrough(on, mask, colour));
}

const FACE: Rgb = [250, 210, 40];
const INK: Rgb = [20, 20, 20];
const BULLSEYE: readonly (readonly [number, Rgb])[] = [
  [1.1, [215, 30, 30]],
  [0.76, [250, 250, 250]],
  [0.5, [215, 30, 30]],
  [0.25, [250, 250, 250]],
];
const SECTORS: readonly Rgb[] = [
  COLOURS.red,
  COLOURS.white,
  COLOURS.blue,
  COLOURS.yellow,
  COLOURS.green,
  COLOURS.orange,
];

/** Paint a concept; returns its mask at drawing scale. */
export function drawConcept(on: Canvas, name: ConceptName, place: Place): Plane {
  const mask = shapeMask(name === 'checker' ? 'square' : 'circle', on.pixelWidth, on.pixelHeight, place);
  const [cx, cy, r] = [place.cx * SCALE, place.cy * SCALE, place.radius * SCALE];
  const paint = (colour: Rgb) => paintThrough(on, mask, colour);
  const disc = (x: number, y: number, radius: number, colour: Rgb) =>
    ellipse(around(cx + x * r, cy + y * r, radius * r), paint(colour));
  switch (name) {
    case 'smiley': {
      const mouth = (top: number, bottom: number): Box => ({
        left: cx - 0.58 * r,
        top: cy + top * r,
        right: cx + 0.58 * r,
        bottom: cy + bottom * r,
      });
      rectangle(everywhere(on), paint(FACE));
      disc(-0.36, -0.3, 0.17, INK);
      disc(0.36, -0.3, 0.17, INK);
      chord(mouth(-0.5, 0.62), 18, 162, paint(INK));
      chord(mouth(-0.78, 0.4), 12, 168, paint(FACE));
      break;
    }
    case 'bullseye':
      for (const [radius, colour] of BULLSEYE) disc(0, 0, radius, colour);
      break;
    case 'beachball':
      SECTORS.forEach((colour, i) => {
        pieslice(around(cx, cy, 1.1 * r), i * 60 - 90, i * 60 - 30, paint(colour));
      });
      disc(0, 0, 0.16, COLOURS.white);
      break;
    case 'checker': {
      const side = 0.86 * r;
      for (let i = 0; i < 3; i++) {
        for (let j = 0; j < 3; j++) {
          const box = {
            left: cx - side + (i * side) / 1.5,
            top: cy - side + (j * side) / 1.5,
            right: cx - side + ((i + 1) * side) / 1.5,
            bottom: cy - side + ((j + 1) * side) / 1.5,
          };
          rectangle(box, paint((i + j) % 2 === 1 ? COLOURS.white : COLOURS.black));
        }
      }
    }
  }
  return mask;
}
