/** Baking adapters into a checkpoint. */

import type { FactorDType } from '../../adapters/encode-layer.ts';
import { filesOfAdapters, refuseLoss } from '../../adapters/write.ts';
import { UsageError } from '../../errors.ts';
import { exists } from '../../io/file-info.ts';
import * as path from '../../io/platform/paths.ts';
import { checkFileTarget, checkFolderTarget } from '../../io/targets.ts';
import type { Progress } from '../../progress.ts';
import { bakeModel, planBake } from '../bake.ts';
import { unusableOf } from '../merge.ts';
import { openModelFiles } from '../model-files.ts';
import { describeJob, type MergeProvenance, mergedMetadata } from '../provenance.ts';
import {
  describeInputs,
  describeModel,
  filesOfInputs,
  loadMergeInputs,
  type StrengthOptions,
} from './inputs.ts';
import type { JobResult, TargetOptions } from './target.ts';

export interface BakeFilesOptions extends TargetOptions {
  readonly base: string;
  readonly inputs: readonly StrengthOptions[];
  readonly dtype?: FactorDType;
  /** Told of bytes written. */
  readonly onProgress?: (progress: Progress) => void;
}

/** Write a checkpoint with adapters inside. @throws as `planBake`, `refuseLoss` and `bakeModel` */
export async function bakeFiles(options: BakeFilesOptions): Promise<JobResult> {
  const { base, inputs: given, out, dtype, force = false, drop = false, onProgress } = options;
  options.signal?.throwIfAborted();
  const model = await openModelFiles(base);
  const inputs = await loadMergeInputs(given);
  const adapters = inputs.map(({ adapter }) => adapter);
  const described = describeModel(model);
  const read = filesOfInputs(describeInputs(adapters, given, model), options.signal);
  const rules = { inputs: [described.path, ...described.files, ...filesOfAdapters(adapters)], force };
  if (model.layout === 'single-file') checkFileTarget(out, rules);
  else checkFolderTarget(out, rules);
  const folder = path.dirname(path.resolve(out));
  if (!exists(folder)) throw new UsageError(`${out}: its folder does not exist`);
  const { changes, unsupported } = planBake(model, inputs);
  const dropped = [...unusableOf(adapters), ...unsupported];
  refuseLoss(out, dropped, drop);
  const recipe: MergeProvenance | null = options.noMetadata
    ? null
    : await describeJob(
        'bake',
        out,
        describeInputs(adapters, given, model),
        { dtype: dtype ?? null, drop },
        read.hashes(),
      );
  await bakeModel(model, inputs, out, {
    dtype,
    ...(recipe === null ? {} : { metadata: mergedMetadata(recipe, adapters) }),
    onProgress,
    runtime: options.runtime,
    threads: options.threads,
    signal: options.signal,
  });
  return { out: path.resolve(out), layers: changes.size, words: [], dropped, notes: [] };
}
