/**
 * How often are all concepts of a prompt there, each once and by itself, and what does a picture cost? One row for each way of auto-scenes.ts
 * and set of concepts, drawn by several processes.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fuse } from '../../src/fusion/fuse.ts';
import { writeFusion } from '../../src/fusion/output.ts';
import { cacheFolder } from '../../src/fusion/statistics/statistics-store.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import {
  AUTO_METHODS,
  AUTO_TEMPLATES,
  type AutoJob,
  type AutoPictures,
  type Verdict,
} from './auto-scenes.ts';
import { shareOut } from './job-workers.ts';
import { percent, rateInterval } from './rate.ts';
import type { World } from './worlds.ts';

export interface AutoSettings {
  readonly samples: number;
  readonly steps: number;
  /** Concepts that stand in one picture. */
  readonly sets: readonly (readonly ConceptName[])[];
  /** Which rows. Default: all that are no variants. */
  readonly methods?: readonly string[];
  /** Folders of fusions by set, `smiley+bullseye`. Others are fused. */
  readonly fusions: ReadonlyMap<string, string>;
  readonly workers: number;
  /** What a worker runs. */
  readonly program: string;
}

/** Pictures of one job: as many as are drawn side by side, few enough that all processes end together. */
const CHUNK = 8;

interface Row {
  readonly set: string;
  readonly concepts: readonly ConceptName[];
  readonly method: string;
  readonly verdicts: readonly Verdict[];
  readonly seconds: number;
}

export async function reportAuto(world: World, settings: AutoSettings): Promise<void> {
  const { samples, steps, sets, methods } = settings;
  if (samples % AUTO_TEMPLATES.length !== 0) {
    throw new Error(`--samples: expected a multiple of ${AUTO_TEMPLATES.length}, got ${samples}`);
  }
  const unknown = methods?.find((wanted) => !AUTO_METHODS.some(({ name }) => name === wanted));
  if (unknown !== undefined) {
    const known = AUTO_METHODS.map(({ name }) => `"${name}"`).join(', ');
    throw new Error(`--method: expected one of ${known}, got "${unknown}"`);
  }
  const wanted = AUTO_METHODS.filter(({ name, variant }) => methods?.includes(name) ?? !variant);
  const scratch = mkdtempSync(path.join(tmpdir(), 'edlora-auto-'));
  try {
    const jobs: AutoJob[] = [];
    for (const concepts of sets) {
      for (const { name: method, fused } of wanted) {
        const fusion = fused ? await fusionOf(world, concepts, settings, scratch) : undefined;
        for (let from = 0; from < samples; from += CHUNK) {
          jobs.push({ concepts, method, from, to: Math.min(samples, from + CHUNK), fusion });
        }
      }
    }
    const rows = await drawn(jobs, settings);
    print(world, rows, samples, steps);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function drawn(jobs: readonly AutoJob[], settings: AutoSettings): Promise<Row[]> {
  let done = 0;
  const results = await shareOut<AutoJob, AutoPictures>({
    ...settings,
    jobs,
    onResult: ({ verdicts }, { concepts, method, from, to }) => {
      done++;
      const good = `${verdicts.filter(isOnce).length} of ${verdicts.length} good`;
      process.stderr.write(
        `${done} of ${jobs.length}: ${concepts.join(' + ')}, ${method}, ${from} to ${to}: ${good}\n`,
      );
    },
  });
  const rows = new Map<string, Row>();
  jobs.forEach(({ concepts, method }, i) => {
    const set = concepts.join('+');
    const key = `${set} ${method}`;
    const before = rows.get(key);
    rows.set(key, {
      set,
      concepts,
      method,
      verdicts: [...(before?.verdicts ?? []), ...results[i]!.verdicts],
      seconds: (before?.seconds ?? 0) + results[i]!.seconds,
    });
  });
  return [...rows.values()];
}

/** Folder with the concepts' fusion by the defaults of `fuse`. */
async function fusionOf(
  { base, concept }: World,
  concepts: readonly ConceptName[],
  { fusions }: AutoSettings,
  scratch: string,
): Promise<string> {
  const set = concepts.join('+');
  const known = fusions.get(set);
  if (known !== undefined) return known;
  process.stderr.write(`fusing ${set}\n`);
  const inputs = [];
  for (const name of concepts) {
    const { concept: own, phrase } = await concept(name);
    inputs.push({ concept: own, ...(own.tokens.length === 0 ? { name: phrase } : {}) });
  }
  const folder = path.join(scratch, set);
  await writeFusion(await fuse({ base, concepts: inputs, cacheFolder: cacheFolder() }), folder);
  return folder;
}

/** Every concept is there, none a second time, no two in one object. */
function isOnce({ present, doubled, mixed }: Verdict): boolean {
  return present.every(Boolean) && !doubled && !mixed;
}

function print(world: World, rows: readonly Row[], samples: number, steps: number): void {
  const costOf = ({ seconds, verdicts }: Row): number => seconds / verdicts.length;
  printReport({
    title: `Several concepts in one prompt, no boxes, ${samples} samples a row`,
    rows: rows.map((row) => {
      const { set, concepts, method, verdicts } = row;
      const rate = (holds: (verdict: Verdict) => boolean): string =>
        percent(verdicts.filter(holds).length / verdicts.length);
      const { low, high } = rateInterval(verdicts.filter(isOnce).length, verdicts.length);
      const first = rows.find((other) => other.set === set)!;
      return {
        concepts: set,
        method,
        'all, once each': `${rate(isOnce)} (${percent(low)} to ${percent(high)})`,
        all: rate(({ present }) => present.every(Boolean)),
        each: concepts.map((_, i) => rate(({ present }) => present[i]!)).join(' '),
        doubled: rate(({ doubled }) => doubled),
        mixed: rate(({ mixed }) => mixed),
        'CPU s a picture': costOf(row).toFixed(2),
        'to the first': `${(costOf(row) / costOf(first)).toFixed(2)} ×`,
      };
    }),
    notes: [
      `${world.quick.sampler}, ${steps} steps, guidance ${world.quick.guidanceScale}; the same seeds for all; 95 % intervals over pictures`,
      'all, once each: every concept is found, none a second time, no two in one object; each: in the order in which they are named',
      'pictures one by one; seconds are of processors, decoding and loading included',
    ],
    details: rows,
  });
}
