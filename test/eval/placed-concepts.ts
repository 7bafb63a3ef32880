/**
 * Two, three and four concepts in one picture, none of them fused: each acts in its own region, and a plain shape stands beside
 * them, in a region without a concept or where the context rules. Every square of a scene begins with the noise of the pictures in which
 * its subject is drawn alone: in a picture of that size; for the context's shape, which has the whole canvas and no place of its own
 * there, in the same square of the base's picture of the same canvas, all of whose noise is the scene's.
 */
import { conceptDeltas } from '../../src/concepts/fit.ts';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import { vaeFactor } from '../../src/models/vae/config.ts';
import type { Region } from '../../src/sampling/region.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { CONCEPT_THRESHOLDS, conceptScore } from '../support/shapeland/concept-detector.ts';
import { detect } from '../support/shapeland/detect.ts';
import { crop, type Picture } from '../support/shapeland/picture.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { SIDE, vocabularyOf, type World, type WorldConcept } from './worlds.ts';

/** Columns between squares. */
const GAP = 16;
const PLAIN = 'photo of a red circle';

const promptOf = ({ phrase }: WorldConcept): string => `photo of a ${phrase}`;
const shows = (name: ConceptName) => (picture: Picture) =>
  conceptScore(picture, name).score >= CONCEPT_THRESHOLDS[name];
const isPlain = (picture: Picture): boolean => {
  const found = detect(picture);
  return found !== null && found.colour === 'red' && found.shape === 'circle';
};

/** How the scenes of a world are drawn. */
interface Drawing {
  readonly settings: World['careful'] & Pick<SampleRequest, 'count' | 'batchSize' | 'seed'>;
  readonly seeds: number;
  /** Pixels per latent cell. */
  readonly factor: number;
}

/** Noise of a row of squares, [4, h, w]: that of the single picture in each, fresh numbers between them. */
function rowNoise(seed: number, squares: number, factor: number): Float32Array {
  const [cells, gap] = [SIDE / factor, GAP / factor];
  const own = new TorchGenerator(seed).randn(4 * cells * cells);
  const width = squares * cells + (squares - 1) * gap;
  const row = new TorchGenerator(seed + 1_000_000).randn(4 * cells * width);
  for (let line = 0; line < 4 * cells; line++) {
    for (let square = 0; square < squares; square++) {
      row.set(own.subarray(line * cells, (line + 1) * cells), line * width + square * (cells + gap));
    }
  }
  return row;
}

/** Who draws the plain shape in the last square: a region of its own, or the context. */
type PlainPlace = 'region' | 'context';

/** The base's own picture of a row of squares, the plain shape everywhere. */
function canvas(
  squares: number,
  { settings, seeds, factor }: Drawing,
): SampleRequest & { readonly width: number } {
  return {
    ...settings,
    prompt: PLAIN,
    width: squares * SIDE + (squares - 1) * GAP,
    height: SIDE,
    initialNoise: Array.from({ length: seeds }, (_, seed) => rowNoise(seed, squares, factor)),
  };
}

/** Squares side by side: one for each concept, and the plain shape's at the end. */
function scene(concepts: readonly WorldConcept[], drawing: Drawing, plain: PlainPlace): SampleRequest {
  const empty = canvas(concepts.length + 1, drawing);
  const { width } = empty;
  const region = (prompt: string, i: number, concepts: readonly number[]): Region => {
    const left = i * (SIDE + GAP);
    const box = { top: 0, bottom: 1, left: left / width, right: (left + SIDE) / width };
    return { prompt, shape: { kind: 'box', box }, concepts: concepts.map((concept) => ({ concept })) };
  };
  const regions = concepts.map((concept, i) => region(promptOf(concept), i, [i]));
  if (plain === 'region') regions.push(region(PLAIN, concepts.length, []));
  return { ...empty, prompt: plain === 'context' ? PLAIN : '', concepts: [], regions, isolate: 1 };
}

async function pictures(base: Checkpoint, parts: PipelineParts, request: SampleRequest): Promise<Picture[]> {
  const pipeline = await Pipeline.create(base, parts);
  try {
    return await pipeline.sample(request);
  } finally {
    await pipeline.dispose();
  }
}

const share = (cases: readonly boolean[]): string =>
  cases.length === 0 ? '–' : `${Math.round((100 * cases.filter(Boolean).length) / cases.length)} %`;

const PLACES: readonly PlainPlace[] = ['region', 'context'];

/** One row per subject of each scene, said on standard error as they come. @param sets of concepts that stand in one picture */
export async function placedConcepts(
  world: World,
  seeds: number,
  sets: readonly (readonly ConceptName[])[],
): Promise<Record<string, string>[]> {
  const { base } = world;
  const settings = { ...world.careful, count: seeds, batchSize: 10, seed: 0 };
  const drawing = { settings, seeds, factor: vaeFactor((await base.parts.vae()).config) };
  const single = { ...settings, width: SIDE, height: SIDE };
  const concepts = new Map<ConceptName, WorldConcept>();
  const alone = new Map<ConceptName, boolean[]>();
  for (const name of new Set(sets.flat())) {
    const known = await world.concept(name);
    concepts.set(name, known);
    const parts = {
      deltas: await conceptDeltas(base, known.concept),
      vocabulary: vocabularyOf(world, [known]),
    };
    const drawn = await pictures(base, parts, { ...single, prompt: promptOf(known) });
    alone.set(name, drawn.map(shows(name)));
  }
  const plain = (await pictures(base, {}, { ...single, prompt: PLAIN })).map(isPlain);
  const rows: Record<string, string>[] = [];
  const found = (row: Record<string, string>): void => {
    rows.push(row);
    process.stderr.write(`${Object.values(row).join(' | ')}\n`);
  };
  for (const [place, names] of PLACES.flatMap((each) => sets.map((set) => [each, set] as const))) {
    const own = names.map((name) => concepts.get(name)!);
    const placedDeltas = [];
    for (const { concept } of own) placedDeltas.push(await conceptDeltas(base, concept));
    const vocabulary = vocabularyOf(world, own);
    const drawn = await pictures(base, { placedDeltas, vocabulary }, scene(own, drawing, place));
    const square = (picture: Picture, i: number): Picture => crop(picture, i * (SIDE + GAP), 0, SIDE, SIDE);
    const places = [...names.keys(), names.length];
    names.forEach((name, i) => {
      const before = alone.get(name)!;
      const inOwn = drawn.map((picture) => shows(name)(square(picture, i)));
      const elsewhere = drawn.flatMap((picture) =>
        places.flatMap((at) => (at === i ? [] : [shows(name)(square(picture, at))])),
      );
      found({
        concepts: String(names.length),
        'plain shape in': place,
        subject: name,
        alone: share(before),
        'in its region': share(inOwn),
        'of those drawn alone': share(inOwn.filter((_, seed) => before[seed])),
        elsewhere: share(elsewhere),
      });
    });
    const isPlainHere = (picture: Picture): boolean => isPlain(square(picture, names.length));
    const before =
      place === 'region'
        ? plain
        : (await pictures(base, {}, canvas(names.length + 1, drawing))).map(isPlainHere);
    const inContext = drawn.map(isPlainHere);
    found({
      concepts: String(names.length),
      'plain shape in': place,
      subject: 'red circle',
      alone: share(before),
      'in its region': share(inContext),
      'of those drawn alone': share(inContext.filter((_, seed) => before[seed])),
      elsewhere: '–',
    });
  }
  return rows;
}
