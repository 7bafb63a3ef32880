/**
 * A concept, or a fusion, for programs that know one embedding per word: the words get one each, and the keys and values of the
 * cross-attentions learn to answer under it as they did under one per layer (answers.ts).
 */
import { type Concept, conceptName } from '../../concepts/concept.ts';
import { UsageError } from '../../errors.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import { Pace } from '../../pace.ts';
import type { Progress } from '../../progress.ts';
import { type ExecutionRequest, executionContext, withProgress } from '../../runtime/execution-context.ts';
import { GraphMatmulEngine } from '../../runtime/matmul-engine.ts';
import { withDefaults } from '../../settings.ts';
import type { HeldOutCheck } from '../best-check.ts';
import type { CollectOptions } from '../options.ts';
import type { RefineProgress } from '../refine/refine-request.ts';
import { latentSizeFor } from '../statistics/collector.ts';
import { type PortedLayer, solveAnswers } from './answers.ts';
import { captionTerms } from './normal-equations.ts';
import { optimiseWords } from './optimise-words.ts';
import { checkPortOptions, PORT_DEFAULTS, type PortOptions } from './port-options.ts';
import type { PortTeacher } from './port-source.ts';
import { PortTexts } from './port-texts.ts';
import { portRefineOptions, refinePort } from './refine-port.ts';
import { withSharedWords } from './shared-words.ts';

export interface PortRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  /** Changes of the base, strengths inside. */
  readonly deltas: ModelDeltas;
  /** Concepts with words. */
  readonly concepts: readonly Concept[];
  /** What prompts call them, e.g. `<smiley1> <smiley2>`. Default: each by all of its words. */
  readonly names?: readonly string[];
  /** What a refinement learns from: of every concept its own model. Default, for a single one: the given changes. */
  readonly teachers?: readonly PortTeacher[];
  /** Of the pictures that a refinement draws, in pixels. Default: those that the base was trained at. */
  readonly size?: CollectOptions['size'];
  readonly options?: Partial<PortOptions>;
  /** What is to be read as the base reads it. */
  readonly captions: readonly string[];
  /** Told of each step, and of each cross-attention. */
  readonly onProgress?: (progress: PortProgress) => void;
}

export interface PortProgress extends Progress {
  /**
   * `words`: a step of the shared embeddings; `answers`: keys and values of a cross-attention; `refine`: a step of the
   * refinement, or of a picture that it draws.
   */
  readonly action: 'words' | 'answers' | 'refine';
}

export interface Port {
  /** The given changes, with other keys and values. */
  readonly deltas: ModelDeltas;
  /** The concepts with one embedding per word. */
  readonly concepts: readonly Concept[];
  readonly layers: readonly PortedLayer[];
  /** Where the embeddings moved: their error on held-out templates, as a share of the base's. Empty without steps. */
  readonly wordChecks: readonly HeldOutCheck[];
  /** Where the factors moved: the error of predictions by held-out templates. Empty without a refinement. */
  readonly refineChecks: readonly HeldOutCheck[];
}

/**
 * @throws {UsageError} if no concept has words, an option is out of range, or several are to be refined without their own models
 * @throws {NumericalError} if features are not finite
 */
export async function portable(request: PortRequest): Promise<Port> {
  const { base, deltas, captions, onProgress } = request;
  const options = withDefaults(PORT_DEFAULTS, request.options ?? {});
  checkPortOptions(options);
  const worded = request.concepts.filter(({ tokens }) => tokens.length > 0);
  if (worded.length === 0) {
    throw new UsageError(
      'port: expected a concept with words of its own, got none; a plain LoRA already is what other programs read',
    );
  }
  const names = request.names ?? worded.map(conceptName);
  const { templates, steps, refine } = options;
  const teachers = refine === 0 ? [] : teachersOf(request, names);
  const size = await latentSizeFor(base, { size: request.size ?? null });
  const execution = executionContext(request);
  const pace = new Pace(request.signal);
  const engine = new GraphMatmulEngine({
    use: 'every-step',
    threads: request.threads,
    signal: request.signal,
  });
  try {
    const texts = new PortTexts(base, deltas, worded, { names, templates, captions }, execution);
    const parts = {
      base,
      deltas,
      texts,
      captions: await captionTerms(await texts.captions(), engine.multiply),
      options,
      pace,
      multiply: engine.multiply,
    };
    const mean = worded.map(withSharedWords);
    const { concepts: shared, checks } =
      steps === 0
        ? { concepts: mean, checks: [] }
        : await optimiseWords(parts, mean, execution, (done) =>
            onProgress?.({ action: 'words', done, total: steps }),
          );
    const answers = await solveAnswers({
      ...parts,
      shared: await texts.shared(shared),
      onProgress: (progress) => onProgress?.({ action: 'answers', ...progress }),
    });
    const ported = { deltas: new Map([...deltas, ...answers.deltas]), concepts: shared };
    const result = { ...ported, layers: answers.layers, wordChecks: checks, refineChecks: [] };
    if (refine === 0) return result;
    const refined = await refinePort({
      base,
      teachers,
      native: worded,
      ported,
      captions,
      templates,
      size,
      options: portRefineOptions(base, size, options),
      execution: withProgress<RefineProgress>(execution, ({ done, total }) =>
        onProgress?.({ action: 'refine', done, total }),
      ),
    });
    return { ...result, deltas: refined.deltas, refineChecks: refined.checks };
  } finally {
    await engine.dispose();
  }
}

function teachersOf({ deltas, teachers }: PortRequest, names: readonly string[]): readonly PortTeacher[] {
  if (teachers !== undefined && teachers.length > 0) return teachers;
  if (names.length === 1) return [{ name: names[0]!, deltas }];
  throw new UsageError(
    `port refine: expected the own models of ${names.length} concepts to learn from, got none`,
  );
}
