/** Merging, from files to a file. */

import type { FactorDType } from '../../adapters/encode-layer.ts';
import type { LayerFormat } from '../../adapters/schemes/index.ts';
import { checkAdapterTarget, filesOfAdapters, refuseLoss } from '../../adapters/write.ts';
import * as path from '../../io/platform/paths.ts';
import { recordedPath } from '../../io/recorded-path.ts';
import type { SubjectProgress } from '../../progress.ts';
import { GraphMatmulEngine } from '../../runtime/matmul-engine.ts';
import { mergeAdapters, type RenamedWord, unusableOf } from '../merge.ts';
import type { MajoritySign } from '../method.ts';
import type { MergeMethodName } from '../methods/index.ts';
import { describeJob, mergedMetadata } from '../provenance.ts';
import {
  baseOf,
  describeInputs,
  filesOfInputs,
  listed,
  loadMergeInputs,
  nameOf,
  type StrengthOptions,
} from './inputs.ts';
import { finish, type JobResult, labelsUnsupportedBy, type TargetOptions, usualFormat } from './target.ts';

export interface MergeFilesOptions extends TargetOptions {
  readonly inputs: readonly StrengthOptions[];
  /** Default `kohya`; `own` for families whose layers are not listed. */
  readonly format?: LayerFormat;
  readonly method?: MergeMethodName;
  readonly rank?: number | null;
  readonly density?: number;
  readonly majoritySign?: MajoritySign;
  readonly dtype?: FactorDType;
  readonly seed?: number;
  /** Model that the adapters were trained on, for kinds that need it. */
  readonly base?: string;
  /** Told of each layer. */
  readonly onProgress?: (progress: SubjectProgress) => void;
}

/** Merge files into one. @throws as `mergeAdapters`, `refuseLoss` and `writeAdapter` */
export async function mergeFiles(
  options: MergeFilesOptions,
): Promise<JobResult & { renamed: readonly RenamedWord[] }> {
  const { inputs: given, out, force = false, base: location, onProgress } = options;
  options.signal?.throwIfAborted();
  const inputs = await loadMergeInputs(given);
  const adapters = inputs.map(({ adapter }) => adapter);
  const format = options.format ?? usualFormat(adapters);
  checkAdapterTarget(out, format, { inputs: [...filesOfAdapters(adapters), ...listed(location)], force });
  refuseLoss(out, unusableOf(adapters), options.drop ?? false);
  const base = await baseOf(location);
  const { method = 'cat', rank = null, density, majoritySign, dtype = 'F32', seed = 0 } = options;
  const settings = {
    method,
    rank,
    dtype,
    seed,
    density,
    majoritySign,
  };
  const described = describeInputs(adapters, given, base?.model);
  // Hashed beside the work, and no longer than that; a failure is reported when the hashes are asked for.
  const over = new AbortController();
  const ended = AbortSignal.any([over.signal, ...(options.signal === undefined ? [] : [options.signal])]);
  const hashing = options.noMetadata ? null : filesOfInputs(described, ended).hashes();
  hashing?.catch(() => undefined);
  const engine = new GraphMatmulEngine({ threads: options.threads, signal: options.signal });
  try {
    const { output, renamed } = await mergeAdapters(inputs, {
      ...settings,
      engine: engine.multiply,
      ...(base === null ? {} : { base: base.weights }),
      onProgress,
      signal: options.signal,
    });
    const result = await finish(
      output,
      format,
      [...unusableOf(adapters), ...labelsUnsupportedBy(options, format, adapters)],
      options,
      async () => {
        const folder = path.dirname(path.resolve(out));
        const resolved = {
          ...settings,
          format,
          base: nameOf(base, out),
          drop: options.drop ?? false,
          renamed: renamed.map((word) => ({ ...word, path: recordedPath(word.path, folder) })),
        };
        const recipe = await describeJob('merge', out, described, resolved, hashing ?? undefined);
        return mergedMetadata(recipe, adapters);
      },
    );
    return { ...result, renamed };
  } finally {
    over.abort();
    await engine.dispose();
  }
}
