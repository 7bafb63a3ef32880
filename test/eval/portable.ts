/**
 * What a portable concept keeps: identity rate and other prompts of every shipped concept, and of every pair's fusion, with one
 * embedding per layer (native), with the mean embedding and the concept's own weights, and ported. `npm run eval:portable`; each
 * row is said on standard error as it comes. `--only smiley,bullseye` (that concept, or that pair's fusion), `--concepts` (concepts
 * alone, no pairs), `--ways native,portable`, `--samples n`, `--fast` (8 steps of DPM-Solver++ in place of 25 of DDIM), `--json`;
 * `--rank`, `--ridge`, `--preserve`, `--steps`, `--refine` as of `edlora port`.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import type { Concept } from '../../src/concepts/concept.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { defaultCaptions, withEmptyPrompt } from '../../src/fusion/captions.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { type Port, portable } from '../../src/fusion/port/port.ts';
import { PORT_DEFAULTS } from '../../src/fusion/port/port-options.ts';
import type { PortTeacher } from '../../src/fusion/port/port-source.ts';
import { withSharedWords } from '../../src/fusion/port/shared-words.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { CONCEPTS, type ConceptName } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import { type DrawingModel, SAMPLINGS } from './draw.ts';
import { identityRate, otherPromptsRate } from './identity.ts';

const FIGURES = ['rank', 'ridge', 'preserve', 'steps', 'refine'] as const;
const text = { type: 'string' } as const;
const { values: options } = parseArgs({
  options: {
    ...(Object.fromEntries(FIGURES.map((name) => [name, text])) as Record<
      (typeof FIGURES)[number],
      typeof text
    >),
    samples: { type: 'string', default: '24' },
    only: text,
    ways: { type: 'string', default: 'native,mean,portable' },
    concepts: { type: 'boolean', default: false },
    fast: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});
const SAMPLES = Number(options.samples);
const HOW = { sampling: options.fast ? SAMPLINGS.fast : SAMPLINGS.ddim };
const WAYS = options.ways.split(',');
const PORT = {
  ...PORT_DEFAULTS,
  ...Object.fromEntries(
    FIGURES.flatMap((name) => (options[name] === undefined ? [] : [[name, Number(options[name])]])),
  ),
};

const base = await openCheckpoint(defaultBase());
const captions = withEmptyPrompt(await defaultCaptions(base));
const percent = (rate: number): string => `${Math.round(100 * rate)} %`;
const rows: Record<string, string>[] = [];

/** Draw as many of what as are asked for, by every way. */
async function row(
  model: string,
  what: string,
  ways: Readonly<Record<string, DrawingModel>>,
  rate: (way: DrawingModel) => Promise<number>,
): Promise<void> {
  const own: Record<string, string> = { model, what };
  for (const [name, way] of Object.entries(ways)) own[name] = percent(await rate(way));
  rows.push(own);
  const rates = Object.keys(ways).map((name) => `${name} ${own[name]}`);
  process.stderr.write(`${model}, ${what}: ${rates.join(', ')}\n`);
}

/** How far errors on what is held out fell. */
function fell(what: string, checks: Port['wordChecks']): string[] {
  const errors = checks.map(({ error }) => error);
  return errors.length === 0 ? [] : [`${what} ${errors[0]!.toFixed(4)} → ${Math.min(...errors).toFixed(4)}`];
}

/** One row per concept, one for other prompts. */
async function judge(model: string, names: readonly ConceptName[]): Promise<void> {
  const concepts: Concept[] = [];
  for (const name of names) concepts.push(await conceptNamed(name));
  const { deltas, teachers } = await modelOf(concepts);
  const layerCount = base.parts.layers.contextCount;
  const way = (own: ModelDeltas, words: readonly Concept[]): DrawingModel => ({
    base,
    deltas: own,
    vocabulary: bindConcepts(base.tokenizer, words, layerCount),
  });
  const start = process.cpuUsage();
  const port = await portable({ base, deltas, concepts, teachers, captions, options: PORT });
  const { user } = process.cpuUsage(start);
  const kept = port.layers.reduce((sum, layer) => sum + layer.kept, 0) / port.layers.length;
  const said = [
    `keys and values kept on held-out templates ${percent(kept)}`,
    ...fell('embeddings', port.wordChecks),
    ...fell('predictions', port.refineChecks),
    `${Math.round(user / 1e6)} s of CPU`,
  ];
  process.stderr.write(`${model}: ${said.join(', ')}\n`);
  const all: Readonly<Record<string, DrawingModel>> = {
    native: way(deltas, concepts),
    mean: way(deltas, concepts.map(withSharedWords)),
    portable: way(port.deltas, port.concepts),
  };
  const ways = Object.fromEntries(Object.entries(all).filter(([name]) => WAYS.includes(name)));
  for (const name of names) {
    await row(model, name, ways, async (own) => (await identityRate(own, name, SAMPLES, HOW)).rate);
  }
  await row(model, 'other prompts', ways, (own) => otherPromptsRate(own, SAMPLES, HOW));
}

function conceptNamed(name: ConceptName): Promise<Concept> {
  return loadConcept(path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`));
}

/** The model of one concept, or of the fusion of several. */
async function modelOf(
  concepts: readonly Concept[],
): Promise<{ deltas: ModelDeltas; teachers?: readonly PortTeacher[] }> {
  if (concepts.length === 1) return { deltas: await conceptDeltas(base, concepts[0]!) };
  const fusion = await fuse({ base, concepts: concepts.map((concept) => ({ concept })) });
  return {
    deltas: new Map([...fusion.layers].map(([id, { delta }]) => [id, delta])),
    teachers: fusion.concepts,
  };
}

const wanted = options.only?.split(',');
const singles = CONCEPTS.map((name) => [name]);
const pairs = CONCEPTS.flatMap((a, i) => CONCEPTS.slice(i + 1).map((b) => [a, b]));
const sets =
  wanted === undefined
    ? [...singles, ...(options.concepts ? [] : pairs)]
    : [CONCEPTS.filter((name) => wanted.includes(name))];
for (const names of sets) await judge(names.join(' + '), names);
printReport({
  title: `One embedding per word in place of one per layer, ${SAMPLES} samples each`,
  rows,
  notes: [
    `ported at ${FIGURES.map((name) => `${name} ${PORT[name]}`).join(', ')}; ${HOW.sampling.sampler}, ${HOW.sampling.steps} steps, guidance 4`,
    ...(WAYS.includes('mean')
      ? ['mean: the mean of the layers’ embeddings with the concept’s own weights']
      : []),
  ],
});
