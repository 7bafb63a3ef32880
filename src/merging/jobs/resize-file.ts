/** Resizing a file: fewer factors a layer. */
import type { FactorDType } from '../../adapters/encode-layer.ts';
import { loadAdapter } from '../../adapters/read.ts';
import type { LayerFormat } from '../../adapters/schemes/index.ts';
import { checkAdapterTarget, filesOfAdapters } from '../../adapters/write.ts';
import type { SubjectProgress } from '../../progress.ts';
import { GraphMatmulEngine } from '../../runtime/matmul-engine.ts';
import type { RankRule } from '../kept-rank.ts';
import { unusableOf } from '../merge.ts';
import { describeJob, inheritedMetadata } from '../provenance.ts';
import { type ResizedReport, resizeAdapter } from '../resize-adapter.ts';
import { baseOf, describeSingle, filesOfInputs, listed, nameOf } from './inputs.ts';
import { finish, type JobResult, labelsUnsupportedBy, type TargetOptions, usualFormat } from './target.ts';

export interface ResizeFileOptions extends TargetOptions {
  readonly input: string;
  readonly rule: RankRule;
  readonly rank: number;
  readonly convRank?: number;
  /** Default `kohya`; `own` for families whose layers are not listed. */
  readonly format?: LayerFormat;
  readonly dtype?: FactorDType;
  readonly base?: string;
  /** Told of each layer. */
  readonly onProgress?: (progress: SubjectProgress) => void;
}

/** Resize one file. @throws as `resizeAdapter`, `refuseLoss` and `writeAdapter` */
export async function resizeFile(
  options: ResizeFileOptions,
): Promise<JobResult & { resized: readonly ResizedReport[] }> {
  const { input, out, rule, rank, convRank = rank, dtype = 'F32', base: location } = options;
  options.signal?.throwIfAborted();
  const adapter = await loadAdapter(input);
  const format = options.format ?? usualFormat([adapter]);
  checkAdapterTarget(out, format, {
    inputs: [...filesOfAdapters([adapter]), ...listed(location)],
    force: options.force ?? false,
  });
  const base = await baseOf(location);
  const described = describeSingle(adapter, base?.model);
  const read = filesOfInputs(described, options.signal);
  const engine = new GraphMatmulEngine({ threads: options.threads, signal: options.signal });
  try {
    const { output, layers } = await resizeAdapter(adapter, {
      rule,
      rank,
      convRank,
      dtype,
      engine: engine.multiply,
      ...(base === null ? {} : { base: base.weights }),
      onProgress: options.onProgress,
      signal: options.signal,
    });
    const unsupported = [...unusableOf([adapter]), ...labelsUnsupportedBy(options, format, [adapter])];
    const result = await finish(output, format, unsupported, options, async () => {
      const recipe = await describeJob(
        'resize',
        out,
        described,
        {
          rule,
          rank,
          convRank,
          format,
          dtype,
          base: nameOf(base, out),
          drop: options.drop ?? false,
        },
        read.hashes(),
      );
      return inheritedMetadata(recipe, adapter);
    });
    return { ...result, resized: layers };
  } finally {
    await engine.dispose();
  }
}
