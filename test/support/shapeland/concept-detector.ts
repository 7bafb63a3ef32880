/**
 * Is one of the four shipped concepts in a picture, and where? Normalised correlation with the drawn concept over
 * position and radius, colour channels pooled, times a factor for the mean colour. Deterministic.
 */
import type { Picture } from './picture.ts';
import { CONCEPTS, type ConceptName, canvas, drawConcept, finish, finishMask } from './world.ts';

/** Radii tried, pixels: those of the training pictures and a little beyond. */
const RADII = Array.from({ length: 15 }, (_, i) => 12 + i);

/**
 * Scores from which a concept counts as drawn. False positives: 5 of 1000 pictures of one plain shape (0.5 %); highest
 * scores there .41 smiley, .58 bullseye, .50 beachball, .70 checker.
 */
export const CONCEPT_THRESHOLDS: Readonly<Record<ConceptName, number>> = {
  smiley: 0.45,
  bullseye: 0.5,
  beachball: 0.5,
  checker: 0.6,
};

/** A drawn concept: its pixels inside the mask, colours 0 … 1 less their mean per channel. */
interface Template {
  readonly size: number;
  /** Pixels inside the mask. */
  readonly count: number;
  /** Runs of the mask: row, first column, one past the last. */
  readonly runs: readonly { readonly y: number; readonly begin: number; readonly end: number }[];
  /** [size, size, 3], zero outside the mask. */
  readonly centred: Float64Array;
  readonly mean: readonly number[];
  /** Σ centred² */
  readonly energy: number;
}

function makeTemplate(name: ConceptName, radius: number): Template {
  const size = 2 * Math.ceil(radius) + 3;
  const on = canvas(size, size, [128, 128, 128]);
  const mask = finishMask(drawConcept(on, name, { cx: size / 2, cy: size / 2, radius }));
  const { data } = finish(on);
  const count = mask.reduce((a, b) => a + b, 0);
  const mean = [0, 1, 2].map(
    (c) => mask.reduce((sum, inside, i) => sum + inside * data[3 * i + c]!, 0) / 255 / count,
  );
  const centred = Float64Array.from(
    data,
    (value, i) => mask[Math.floor(i / 3)]! * (value / 255 - mean[i % 3]!),
  );
  const runs: { y: number; begin: number; end: number }[] = [];
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      if (mask[y * size + x] === 0) continue;
      const begin = x;
      while (x < size && mask[y * size + x] !== 0) x++;
      runs.push({ y, begin, end: x });
    }
  }
  return { size, count, runs, centred, mean, energy: centred.reduce((sum, value) => sum + value * value, 0) };
}

const TEMPLATES = new Map<string, Template>();

function templateOf(name: ConceptName, radius: number): Template {
  const key = `${name}/${radius}`;
  const template = TEMPLATES.get(key) ?? makeTemplate(name, radius);
  TEMPLATES.set(key, template);
  return template;
}

/** Values 0 … 1 of a picture, and their running sums (and sums of squares) along each row, per channel. */
interface Field {
  readonly width: number;
  readonly height: number;
  readonly values: Float64Array;
  /** [H, W + 1, 3]: sums of the columns before. */
  readonly sums: Float64Array;
  readonly squares: Float64Array;
}

function fieldOf({ width, height, data }: Picture): Field {
  const values = Float64Array.from(data, (value) => value / 255);
  const sums = new Float64Array(height * (width + 1) * 3);
  const squares = new Float64Array(sums.length);
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < width * 3; i++) {
      const value = values[y * width * 3 + i]!;
      const at = y * (width + 1) * 3 + i;
      sums[at + 3] = sums[at]! + value;
      squares[at + 3] = squares[at]! + value * value;
    }
  }
  return { width, height, values, sums, squares };
}

/** Score of a template with its upper left corner at (left, top); anything up to `floor` if it is not above that. */
function scoreAt(field: Field, template: Template, left: number, top: number, floor: number): number {
  const { count, size, centred, mean, runs } = template;
  const { values, sums, squares, width } = field;
  let [square, spread, distance] = [0, 0, 0];
  for (let c = 0; c < 3; c++) {
    let sum = 0;
    for (const { y, begin, end } of runs) {
      const before = ((top + y) * (width + 1) + left + begin) * 3 + c;
      const after = before + (end - begin) * 3;
      sum += sums[after]! - sums[before]!;
      square += squares[after]! - squares[before]!;
    }
    spread += (sum * sum) / count;
    distance += (sum / count - mean[c]!) ** 2;
  }
  const variance = Math.max(0, square - spread);
  const colourOff = Math.sqrt(distance);
  const colour = Math.min(1, Math.max(0, 1 - Math.max(0, colourOff - 0.15) / 0.5));
  // The constant keeps flat areas, whose correlation is noise, near zero.
  const steadied = variance + 0.002 * count;
  // Correlation is at most √(variance / steadied): most places are out before a product is taken.
  if (colour * Math.sqrt(variance / steadied) <= floor) return floor;
  // One accumulator a channel: three sums in flight at a time.
  let [red, green, blue] = [0, 0, 0];
  for (const { y, begin, end } of runs) {
    const last = (y * size + end) * 3;
    let at = ((top + y) * width + left + begin) * 3;
    for (let k = (y * size + begin) * 3; k < last; k += 3, at += 3) {
      red += centred[k]! * values[at]!;
      green += centred[k + 1]! * values[at + 1]!;
      blue += centred[k + 2]! * values[at + 2]!;
    }
  }
  return colour * ((red + green + blue) / Math.sqrt(template.energy * steadied));
}

export interface ConceptMatch {
  /** 1 is an exact copy; −1 if the picture is smaller than every template. */
  readonly score: number;
  /** Middle and radius of the best match, pixels. */
  readonly cx: number;
  readonly cy: number;
  readonly radius: number;
}

/** The best match of one concept over all positions and radii. */
export function conceptScore(picture: Picture, name: ConceptName): ConceptMatch {
  return bestMatch(fieldOf(picture), name);
}

/** Where the concept is, if it is there: the same as `conceptScore` from its threshold on, in a part of the time. */
export function conceptPlace(picture: Picture, name: ConceptName): ConceptMatch | null {
  const threshold = CONCEPT_THRESHOLDS[name];
  const match = bestMatch(fieldOf(picture), name, threshold - 1e-6);
  return match.score >= threshold ? match : null;
}

/** @param floor what is not above it is not looked at closely */
function bestMatch(field: Field, name: ConceptName, floor = -1): ConceptMatch {
  let best: ConceptMatch = { score: floor, cx: 0, cy: 0, radius: 0 };
  for (const radius of RADII) {
    const template = templateOf(name, radius);
    const { size } = template;
    for (let top = 0; top + size <= field.height; top++) {
      for (let left = 0; left + size <= field.width; left++) {
        const score = scoreAt(field, template, left, top, best.score);
        if (score > best.score) best = { score, cx: left + size / 2, cy: top + size / 2, radius };
      }
    }
  }
  return best;
}

export interface ConceptIdentity {
  /** The concept with the best score, if that reaches its threshold. */
  readonly concept: ConceptName | null;
  readonly matches: Readonly<Record<ConceptName, ConceptMatch>>;
}

/** Which concept the picture shows. */
export function conceptIdentity(picture: Picture): ConceptIdentity {
  const field = fieldOf(picture);
  const matches = Object.fromEntries(CONCEPTS.map((name) => [name, bestMatch(field, name)])) as Record<
    ConceptName,
    ConceptMatch
  >;
  const best = CONCEPTS.reduce((a, b) => (matches[b].score > matches[a].score ? b : a));
  return { concept: matches[best].score >= CONCEPT_THRESHOLDS[best] ? best : null, matches };
}
