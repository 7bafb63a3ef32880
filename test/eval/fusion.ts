/**
 * What fusion gains and costs on a miniature, against every simpler way: identity rate by the detector, CLIP image
 * and text alignment, other prompts. `npm run eval:fusion`; `-- --json`; `-- --figure file.svg` writes the figure;
 * `-- --only normal` draws single concepts and the ways whose names hold that text (several: one `--only` each); `-- --joint 800` trains the
 * concepts together as well, for so many steps each, where that was not done yet (some ten minutes a concept and row);
 * `-- --refine 200` refines the default as well, by so many steps a concept, some minutes a row; `-- --options '{"size":{"width":64,"height":64}}'` gives every fusion these
 * options too.
 * `-- --world tiny-world-xl` measures on the miniature of SDXL's family (`--folder` says where its files lie), `--set beachball+checker` puts
 * these together alone, `--seeds 1` draws one picture a prompt in place of four, `--own-noise` each prompt from noise of its own (few seeds
 * that all prompts share are few facts).
 * One process per core draws (`--workers n` says how many); about a quarter of an hour on two.
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { scatterChart } from '../../src/charts/scatter-chart.ts';
import { standaloneSvg } from '../../src/charts/svg.ts';
import type { FusionOptions } from '../../src/fusion/options.ts';
import { printReport } from '../support/tool-output.ts';
import { allJobs, FusionBench, type Job, type JobResult, OTHER_PROMPTS } from './fusion-jobs.ts';
import { serveJobs, shareOut, WORKER_OPTIONS } from './job-workers.ts';
import { WORLD_OPTIONS, type World, worldOf } from './worlds.ts';

const { values } = parseArgs({
  options: {
    ...WORLD_OPTIONS,
    only: { type: 'string', multiple: true, default: [''] },
    set: { type: 'string', multiple: true },
    joint: { type: 'string', default: '0' },
    refine: { type: 'string', default: '0' },
    options: { type: 'string', default: '{}' },
    seeds: { type: 'string', default: '4' },
    'own-noise': { type: 'boolean', default: false },
    figure: { type: 'string' },
    json: { type: 'boolean' },
    ...WORKER_OPTIONS,
  },
});
/** Pictures per prompt and concept. */
const SEEDS = Number(values.seeds);

const world = await worldOf(values);
if (values.worker) {
  const bench = await FusionBench.open(world, { seeds: SEEDS, ownNoise: values['own-noise'] });
  serveJobs(
    (job: Job) => bench.run(job),
    () => bench.dispose(),
  );
} else await main();

async function main(): Promise<void> {
  const started = performance.now();
  const settings = {
    joint: Number(values.joint),
    refine: Number(values.refine),
    options: JSON.parse(values.options) as Partial<FusionOptions>,
  };
  const jobs = allJobs(chosen(world), settings).filter(
    ({ label, way }) => way.kind === 'single' || values.only.some((text) => label.includes(text)),
  );
  let done = 0;
  const results = await shareOut<Job, JobResult>({
    jobs,
    workers: Number(values.workers),
    program: fileURLToPath(import.meta.url),
    onResult: ({ concepts, otherPrompts }, job) => {
      done++;
      const found = concepts.map(({ identity }) => percent(identity)).join(' ');
      process.stderr.write(
        `${done} of ${jobs.length}: ${job.concepts.join(' + ')}, ${job.label}: ${found}, others ${percent(otherPrompts)}\n`,
      );
    },
  });
  report(jobs, new Map(jobs.map((job, i) => [job, results[i]!])), performance.now() - started);
}

/** The sets that are asked for, and the concepts in them. */
function chosen({ concepts, sets }: World): Pick<World, 'concepts' | 'sets'> {
  if (values.set === undefined) return { concepts, sets };
  const names = values.set.map((set) => set.split('+'));
  const inOrder = names.map((set) => concepts.map(({ name }) => name).filter((name) => set.includes(name)));
  return { concepts: concepts.filter(({ name }) => names.flat().includes(name)), sets: inOrder };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

function report(jobs: readonly Job[], results: ReadonlyMap<Job, JobResult>, elapsedMs: number): void {
  const singles = new Map(
    jobs.filter(({ way }) => way.kind === 'single').map((job) => [job.concepts[0]!, results.get(job)!]),
  );
  const rows = jobs.map((job) => {
    const { concepts, identity, clipI, clipT, otherPrompts } = results.get(job)!;
    const alone = concepts.map(({ concept }) => singles.get(concept)!.identity.mean);
    const reference = alone.reduce((a, b) => a + b, 0) / alone.length;
    return {
      concepts: job.concepts.join(' + '),
      model: job.label,
      identity: `${percent(identity.mean)} (${percent(identity.low)} to ${percent(identity.high)})`,
      'of single': reference > 0 ? percent(identity.mean / reference) : null,
      'per concept': concepts.map((each) => percent(each.identity)).join(' '),
      'CLIP-I': clipI.toFixed(3),
      'CLIP-T': clipT.toFixed(3),
      'other prompts': percent(otherPrompts),
    };
  });
  if (values.figure !== undefined) {
    const chart = scatterChart({
      title: 'Identity kept against other prompts kept, two to four concepts in one model',
      xLabel: 'identity rate, %',
      yLabel: 'other prompts right, %',
      xDomain: [0, 100],
      yDomain: [0, 100],
      height: 520,
      points: jobs
        .filter(({ concepts }) => concepts.length > 1)
        .map((job) => ({
          label: String(job.concepts.length),
          series: job.label,
          x: 100 * results.get(job)!.identity.mean,
          y: 100 * results.get(job)!.otherPrompts,
        })),
    });
    writeFileSync(values.figure, standaloneSvg(chart));
  }
  const { sampler, steps, guidanceScale } = world.quick;
  const pictures = [...results.values()].reduce((sum, result) => sum + result.pictures, 0);
  printReport({
    title: `Fusion on ${values.world}, against simpler ways`,
    rows,
    notes: [
      `identity: share of pictures in which the detector finds the concept, over 20 prompts × ${SEEDS} seeds per concept; 95 % interval over prompts`,
      'of single: against the mean rate of the same concepts alone; per concept: in the order in which they are named',
      'CLIP-I: mean cosine with the ten training pictures; CLIP-T: with the prompt without the concept; both by the CLIP of tiny-world',
      `other prompts: ${OTHER_PROMPTS} × "photo of a COLOUR SHAPE", both words right`,
      ...(values.options === '{}' ? [] : [`every fusion with ${values.options}`]),
      `${sampler}, ${steps} steps, guidance ${guidanceScale}; ${pictures} pictures, ${(elapsedMs / 60_000).toFixed(1)} minutes`,
    ],
    details: jobs.map((job) => ({ ...job, ...results.get(job)! })),
  });
}
