/**
 * Does every pair of the shipped concepts survive together, and do all four? Identity rates against each concept alone,
 * other prompts against the base. `npm run eval:pairs`, about five minutes on two cores; each row is said on standard error as it
 * comes. `-- --refine 200` with that many steps of refinement a concept; `-- --options '{"runs":4}'` with other options of a fusion;
 * `-- --only smiley,bullseye` fuses those alone (repeatable); `-- --joint 800` trains each set together, for so many steps a
 * concept, instead of fusing it; `-- --files '.build/eval-training/{}-ed-lora-orthogonal-0.safetensors'` takes other files of the
 * concepts; `-- --samples 160`; `-- --fast` draws with 8 steps of DPM-Solver++ in place of 25 of DDIM; `-- --threads 1` where several
 * of these run side by side, each on a core.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { type FusionConceptInput, prepareConcept } from '../../src/fusion/fusion-concept.ts';
import type { FusionOptions } from '../../src/fusion/options.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { CONCEPTS, type ConceptName } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import { type DrawingModel, fusedModel, plainModel, SAMPLINGS } from './draw.ts';
import { identityRate, otherPromptsRate } from './identity.ts';
import { trainedJointly } from './joint-training.ts';

/** What a fusion is to reach: of the concepts' own rates, and of other prompts. */
const GOALS = { 2: { identity: 0.9, other: 0.9 }, 4: { identity: 0.85, other: 0.9 } } as const;

const { values } = parseArgs({
  options: {
    refine: { type: 'string', default: '0' },
    options: { type: 'string', default: '{}' },
    joint: { type: 'string', default: '0' },
    samples: { type: 'string', default: '24' },
    files: { type: 'string', default: path.join('fixtures/tiny-world/concepts', 'edlora_{}.pth') },
    only: { type: 'string', multiple: true },
    fast: { type: 'boolean', default: false },
    threads: { type: 'string' },
    json: { type: 'boolean' },
  },
});
const [REFINE, JOINT, SAMPLES] = [values.refine, values.joint, values.samples].map(Number) as [
  number,
  number,
  number,
];

const THREADS = values.threads === undefined ? undefined : Number(values.threads);
const OPTIONS: Partial<FusionOptions> = JSON.parse(values.options);
const HOW = { sampling: values.fast ? SAMPLINGS.fast : SAMPLINGS.ddim };

/** Statistics of one concept serve all sets. */
const cacheFolder = mkdtempSync(path.join(tmpdir(), 'edlora-pairs-'));
process.on('exit', () => rmSync(cacheFolder, { recursive: true, force: true }));

const pairs = CONCEPTS.flatMap((a, i) => CONCEPTS.slice(i + 1).map((b) => [a, b]));
const sets = values.only?.map((list) => CONCEPTS.filter((name) => list.split(',').includes(name))) ?? [
  ...pairs,
  [...CONCEPTS],
];

const base = await openCheckpoint(defaultBase());
const concepts = new Map<ConceptName, FusionConceptInput>();
const alone = new Map<ConceptName, number>();
for (const name of CONCEPTS.filter((name) => sets.some((names) => names.includes(name)))) {
  const file = path.resolve(packageRoot(), values.files.replace('{}', name));
  const input = { concept: await loadConcept(file) };
  concepts.set(name, input);
  const { deltas, concept } = await prepareConcept(base, input);
  const model = { base, deltas, vocabulary: bindConcepts(base.tokenizer, [concept]), threads: THREADS };
  alone.set(name, (await identityRate(model, name, SAMPLES, HOW)).rate);
}
const otherAlone = await otherPromptsRate({ ...plainModel(base), threads: THREADS }, SAMPLES, HOW);

const percent = (rate: number): string => `${Math.round(100 * rate)} %`;
const mean = (rates: readonly number[]): number => rates.reduce((a, b) => a + b, 0) / rates.length;
const rows: Record<string, string>[] = [];
const details = [];
for (const names of sets) {
  const { model, seconds } = await together(names);
  const rates: number[] = [];
  for (const name of names) rates.push((await identityRate(model, name, SAMPLES, HOW)).rate);
  const other = await otherPromptsRate(model, SAMPLES, HOW);
  const singles = names.map((name) => alone.get(name)!);
  const share = mean(rates) / mean(singles);
  const goal = GOALS[names.length <= 2 ? 2 : 4];
  const reached = share >= goal.identity && other >= goal.other;
  details.push({ names, rates, singles, share, other, reached });
  rows.push({
    concepts: names.join(' + '),
    alone: singles.map(percent).join(', '),
    fused: rates.map(percent).join(', '),
    'of alone': percent(share),
    'other prompts': percent(other),
    seconds: seconds === null ? '' : `${Math.round(seconds)}`,
    goal: `${percent(goal.identity)}, ${percent(goal.other)}: ${reached ? 'reached' : 'missed'}`,
  });
  process.stderr.write(`${JSON.stringify(rows.at(-1))}\n`);
}

/** The model of all of them: fused, or trained together; and what fusing took after features were collected. */
async function together(
  names: readonly ConceptName[],
): Promise<{ model: DrawingModel; seconds: number | null }> {
  if (JOINT > 0) {
    const concept = await loadConcept(await trainedJointly(names, JOINT));
    const deltas = await conceptDeltas(base, concept);
    const model = { base, deltas, vocabulary: bindConcepts(base.tokenizer, [concept]), threads: THREADS };
    return { model, seconds: null };
  }
  const inputs = names.map((name) => concepts.get(name)!);
  const options = { ...OPTIONS, refine: REFINE * names.length };
  const fusion = await fuse({ base, concepts: inputs, options, cacheFolder, threads: THREADS });
  const { elapsedMs, collectMs } = fusion.report;
  return { model: { ...fusedModel(fusion), threads: THREADS }, seconds: (elapsedMs - collectMs) / 1000 };
}

const way =
  JOINT > 0
    ? `trained together for ${JOINT} steps a concept`
    : REFINE > 0
      ? `refined by ${REFINE} steps a concept`
      : 'defaults of fuse';
const other = values.options === '{}' ? '' : `, ${values.options}`;
printReport({
  title: `Concepts together, ${SAMPLES} samples each (${HOW.sampling.sampler} ${HOW.sampling.steps} steps, guidance 4, ${way}${other})`,
  rows,
  notes: [
    'alone and fused: share of samples in which the detector finds each concept; "of alone": of the means',
    `other prompts: "photo of a COLOUR SHAPE" with both words right; the base has ${percent(otherAlone)}`,
    'seconds: of fusing, after features were collected',
    `one picture of ${SAMPLES} is ${percent(1 / SAMPLES)}`,
  ],
  details,
});
