/** Regions written as text: our own short form, and Mix-of-Show's. Both are parsed, never evaluated. */
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { MAX_REGIONS } from './limits.ts';

/** Where a region lies, as its author wrote it. */
export type ShapeSpec =
  | {
      readonly kind: 'box';
      readonly box: readonly [left: number, top: number, right: number, bottom: number];
    }
  | { readonly kind: 'polygon'; readonly polygon: readonly (readonly [x: number, y: number])[] }
  | { readonly kind: 'mask'; readonly file: string };

/** Numbers in a shape are fractions of the picture if none is above 1, else pixels. */
export interface RegionSpec {
  readonly prompt: string;
  readonly negative: string;
  readonly shape: ShapeSpec;
  /** Pixels over which edges fade. */
  readonly feather: number;
  readonly weight: number;
}

/** A strength inside a shape. */
export interface StrengthSpec {
  readonly shape: ShapeSpec;
  readonly strength: number;
}

/** Nothing in it can match in two ways, so that a long row of digits is read once. */
const NUMBER = String.raw`[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?`;
const WHOLE_NUMBER = new RegExp(`^${NUMBER}$`);
const SETTING = new RegExp(`^(feather|weight)=(${NUMBER})$`);
const FORM = 'prompt @ left,top,right,bottom : negative prompt';

/**
 * Parse `prompt @ place [feather=8] [weight=2] [: negative prompt]`. A place is a box `left,top,right,bottom`, a
 * polygon `x,y x,y x,y …`, or a mask picture's file name.
 * @throws {UsageError} saying what is wrong with it
 */
export function parseRegion(text: string): RegionSpec {
  const where = `region "${excerpt(text)}"`;
  const at = placeSign(text);
  if (at < 0) throw new UsageError(`${where}: expected "${FORM}", got no @`);
  const prompt = text.slice(0, at).trim();
  if (prompt === '') throw new UsageError(`${where}: expected a prompt before @`);
  const rest = text.slice(at + 1);
  const colon = /\s:(?:\s|$)/.exec(rest);
  const negative = colon === null ? '' : rest.slice(colon.index + colon[0].length).trim();
  const placed = colon === null ? rest : rest.slice(0, colon.index);
  const words = [...placed.matchAll(/\S+/g)];
  const settings = new Map<string, number>();
  // From the end: what precedes the settings may be a file's name with blanks in it.
  for (let match = lastSetting(words); match !== null; match = lastSetting(words)) {
    if (settings.has(match[1]!)) throw new UsageError(`${where}: expected ${match[1]} once, got it twice`);
    settings.set(match[1]!, Number(match[2]));
    words.pop();
  }
  const end = words.at(-1);
  const place = end === undefined ? '' : placed.slice(words[0]!.index, end.index + end[0].length);
  return {
    prompt,
    negative,
    shape: parsePlace(where, place),
    feather: settings.get('feather') ?? 0,
    weight: settings.get('weight') ?? 1,
  };
}

/** An @ with numbers behind it. */
const NUMBERED = new RegExp(`@\\s*${NUMBER}\\s*,`, 'g');

/** The @ of the place: the last one before the negative prompt; prompts of either kind may have others. -1 without. */
function placeSign(text: string): number {
  const first = text.indexOf('@');
  if (first < 0) return -1;
  const colon = /\s:(?:\s|$)/.exec(text.slice(first));
  const at = colon === null ? text.lastIndexOf('@') : text.lastIndexOf('@', first + colon.index);
  // A prompt with a colon of its own.
  const numbered = [...text.matchAll(NUMBERED)].map(({ index }) => index);
  return numbered.length > 0 && !numbered.includes(at) ? numbered.at(-1)! : at;
}

/** The setting at the end; the first word is the place in any case. */
function lastSetting(words: readonly RegExpMatchArray[]): RegExpExecArray | null {
  return words.length < 2 ? null : SETTING.exec(words.at(-1)![0]);
}

/** @throws {UsageError} for an empty place, or numbers that are no box and no polygon */
function parsePlace(where: string, place: string): ShapeSpec {
  if (place === '') throw new UsageError(`${where}: expected a box, a polygon or a mask file after @`);
  const points = place.split(/\s+/).map((point) => point.split(','));
  const numeric = points.every((point) => point.every((part) => WHOLE_NUMBER.test(part)));
  if (!numeric) {
    if (new RegExp(`^${NUMBER}\\s*,`).test(place)) {
      throw new UsageError(`${where}: expected four numbers left,top,right,bottom, got "${excerpt(place)}"`);
    }
    return { kind: 'mask', file: place };
  }
  const numbers = points.map((point) => point.map(Number));
  const flat = numbers.flat();
  if (numbers.every((point) => point.length === 2) && numbers.length >= 3) {
    return { kind: 'polygon', polygon: numbers as unknown as [number, number][] };
  }
  if (flat.length !== 4) {
    throw new UsageError(`${where}: expected four numbers left,top,right,bottom, got ${flat.length}`);
  }
  return { kind: 'box', box: flat as unknown as [number, number, number, number] };
}

/** `[y0, x0, y1, x1]` in pixels, or `[]`. */
const PIXEL_BOX = new RegExp(
  String.raw`^\[\s*(?:(${NUMBER})\s*,\s*(${NUMBER})\s*,\s*(${NUMBER})\s*,\s*(${NUMBER})\s*(?:,\s*)?)?\]$`,
);

/**
 * Parse Mix-of-Show's `[prompt]-*-[negative]-*-[y0, x0, y1, x1]|…`; boxes are pixels, `[]` is the whole picture.
 * Source: TencentARC/Mix-of-Show@51270fd, regionally_controlable_sampling.py (prepare_text), which evaluates the boxes.
 * @throws {UsageError} naming the region that is malformed
 */
export function parseMixOfShowRegions(text: string, width: number, height: number): RegionSpec[] {
  return listItems(text).map((item, i) => {
    const where = `region ${i + 1} of "${excerpt(text)}"`;
    const parts = item.split('-*-');
    if (parts.length !== 3) {
      throw new UsageError(
        `${where}: expected [prompt]-*-[negative]-*-[y0, x0, y1, x1], got ${parts.length} parts`,
      );
    }
    const [prompt, negative, place] = parts as [string, string, string];
    return {
      prompt: prompt.replace(/[[\]]/g, '').trim(),
      negative: negative.replace(/[[\]]/g, '').trim(),
      shape: pixelBox(where, place, width, height),
      feather: 0,
      weight: 1,
    };
  });
}

const STRENGTH = new RegExp(String.raw`^(\[[^\]]*\])\s*-\s*(${NUMBER})$`);

/**
 * Parse Mix-of-Show's region-wise adapter strengths, `[y0, x0, y1, x1]-0.8|…`.
 * @throws {UsageError} naming the entry that is malformed
 */
export function parseMixOfShowStrengths(text: string, width: number, height: number): StrengthSpec[] {
  return listItems(text).map((item, i) => {
    const where = `adapter strength ${i + 1} of "${excerpt(text)}"`;
    const match = STRENGTH.exec(item);
    if (match === null)
      throw new UsageError(`${where}: expected [y0, x0, y1, x1]-strength, got "${excerpt(item)}"`);
    return { shape: pixelBox(where, match[1]!, width, height), strength: Number(match[2]) };
  });
}

/** @throws {UsageError} for more than `MAX_REGIONS` */
function listItems(text: string): string[] {
  const items = text
    .split('|')
    .map((item) => item.trim())
    .filter((item) => item !== '');
  if (items.length > MAX_REGIONS) {
    throw new UsageError(
      `"${excerpt(text)}": expected at most ${MAX_REGIONS} regions joined by |, got ${items.length}`,
    );
  }
  return items;
}

function pixelBox(where: string, text: string, width: number, height: number): ShapeSpec {
  const match = PIXEL_BOX.exec(text.trim());
  if (match === null) {
    throw new UsageError(
      `${where}: expected a box [y0, x0, y1, x1] in pixels, got "${excerpt(text.trim())}"`,
    );
  }
  if (match[1] === undefined) return { kind: 'box', box: [0, 0, 1, 1] };
  const [top, left, bottom, right] = match.slice(1).map(Number) as [number, number, number, number];
  return { kind: 'box', box: [left / width, top / height, right / width, bottom / height] };
}
