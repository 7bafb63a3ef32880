/** Files of a deprojector's training: the deprojector, and beside it its settings with the losses, and a plot of them. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { lossPlot } from '../charts/loss-plot.ts';
import { UsageError } from '../errors.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { checkFileTarget, type TargetRules } from '../io/targets.ts';
import { toolVersion } from '../package-root.ts';
import { writeDeprojector } from './file.ts';
import type { TrainedDeprojector } from './train.ts';

/** Absolute paths. */
export interface DeprojectorFiles {
  readonly deprojector: string;
  readonly settings: string;
  readonly plot: string;
  /** What `resume` goes on from. */
  readonly state: string;
  /** States of the prompts, for further trainings on the same ones. */
  readonly prompts: string;
}

/** @param prompts where states of the prompts are kept. Default: beside the result */
export function deprojectorFiles(out: string, prompts?: string): DeprojectorFiles {
  const stem = path.resolve(out).replace(/\.safetensors$/, '');
  return {
    deprojector: path.resolve(out),
    settings: `${stem}.train.json`,
    plot: `${stem}.loss.svg`,
    state: `${stem}.state.safetensors`,
    prompts: prompts === undefined ? `${stem}.prompts.safetensors` : path.resolve(prompts),
  };
}

/**
 * Check that a run may write its results; do this before the work.
 * @throws {UsageError} for a name that does not end in .safetensors, for one of an input, and for results of an earlier run that
 *   is neither gone on with nor given up
 */
export function checkDeprojectorTarget(
  files: DeprojectorFiles,
  { inputs, force, resume }: TargetRules & { readonly resume: boolean },
): void {
  if (!files.deprojector.endsWith('.safetensors')) {
    throw new UsageError(`${files.deprojector}: expected a name that ends in .safetensors`);
  }
  const rules = { inputs, force: force || resume };
  if (!rules.force && existsSync(files.state)) {
    throw new UsageError(
      `${files.state}: the state of an earlier run; \`resume\` goes on with it, \`force\` starts anew`,
    );
  }
  for (const file of [files.deprojector, files.settings, files.plot, files.state])
    checkFileTarget(file, rules);
  checkFileTarget(files.prompts, { inputs, force: true });
}

/** @throws {UsageError} for a name that does not end in .safetensors, and for one that is an input or taken */
export function checkStatesTarget(out: string, rules: TargetRules): void {
  if (!out.endsWith('.safetensors'))
    throw new UsageError(`${out}: expected a name that ends in .safetensors`);
  checkFileTarget(out, rules);
}

/** Write the results; each file appears complete or not at all. @throws {EdloraError} when the disk is full */
export async function writeTrainedDeprojector(
  files: DeprojectorFiles,
  trained: TrainedDeprojector,
): Promise<void> {
  const { deprojector, settings, losses, heldOut, counts, parameterCount } = trained;
  const mean = (errors: readonly number[]): number => errors.reduce((a, b) => a + b, 0) / errors.length;
  await writeDeprojector(files.deprojector, deprojector, {
    settings: JSON.stringify(settings),
    prompts: String(counts.trained),
    held_out_teacher_forced: mean(heldOut.teacherForced).toPrecision(4),
    held_out_autoregressive: mean(heldOut.autoregressive).toPrecision(4),
  });
  const record = { tool: `edlora ${toolVersion()}`, settings, counts, parameterCount, heldOut, losses };
  await writeFileAtomically(files.settings, [`${JSON.stringify(record, null, 2)}\n`]);
  const log = losses.map((loss, i) => ({ step: i + 1, loss }));
  await writeFileAtomically(files.plot, [await lossPlot(log)]);
}
