import type { LayerFormat } from '../../adapters/schemes/index.ts';
import { checkAdapterTarget } from '../../adapters/write.ts';
import { GraphMatmulEngine } from '../../runtime/matmul-engine.ts';
import { type ExtractedLayer, type ExtractOptions, extractAdapter } from '../extract.ts';
import { openModelFiles } from '../model-files.ts';
import { describeJob, recipeKey } from '../provenance.ts';
import { describeModel, filesOfInputs } from './inputs.ts';
import { finish, type JobResult, type TargetOptions } from './target.ts';

export interface ExtractModelOptions extends TargetOptions, Omit<ExtractOptions, 'engine' | 'signal'> {
  readonly tuned: string;
  readonly base: string;
  /** Default `kohya`. */
  readonly format?: LayerFormat;
}

/** Extract the difference of two checkpoints. @throws as `extractAdapter`, `refuseLoss` and `writeAdapter` */
export async function extractModel(
  options: ExtractModelOptions,
): Promise<JobResult & { extracted: readonly ExtractedLayer[] }> {
  const { tuned: tunedPath, base: basePath, out, format = 'kohya', force = false, onProgress } = options;
  options.signal?.throwIfAborted();
  const [tuned, base] = [await openModelFiles(tunedPath), await openModelFiles(basePath)];
  const models = [describeModel(tuned), describeModel(base)];
  const read = filesOfInputs(models, options.signal);
  checkAdapterTarget(out, format, {
    inputs: models.flatMap(({ path: own, files }) => [own, ...files]),
    force,
  });
  const {
    rank,
    convRank = rank,
    layers = 'transformer',
    minDifference = 0,
    dtype = 'F32',
    seed = 0,
  } = options;
  const settings = { rank, convRank, layers, minDifference, dtype, seed };
  const engine = new GraphMatmulEngine({ threads: options.threads, signal: options.signal });
  try {
    const extraction = await extractAdapter(tuned, base, {
      ...settings,
      engine: engine.multiply,
      onProgress,
      signal: options.signal,
    });
    const result = await finish(extraction.output, format, extraction.unsupported, options, async () => {
      const recipe = await describeJob(
        'extract',
        out,
        models,
        {
          ...settings,
          format,
          drop: options.drop ?? false,
        },
        read.hashes(),
      );
      return { [recipeKey]: JSON.stringify(recipe) };
    });
    return { ...result, extracted: extraction.layers };
  } finally {
    await engine.dispose();
  }
}
