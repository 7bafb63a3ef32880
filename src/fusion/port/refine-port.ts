/** The refinement of a ported model: the concepts' own models are its teachers, with one embedding per layer. */
import type { Concept } from '../../concepts/concept.ts';
import { bindConcepts } from '../../concepts/prompt.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { outside } from '../../models/families/layer-table.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import type { HeldOutCheck } from '../best-check.ts';
import { type LatentSize, PromptReader } from '../prompt-reader.ts';
import {
  captionTeacher,
  conceptTeacher,
  ModelReading,
  noPromptOf,
  refineOptionsFor,
  workOf,
} from '../refine/readings.ts';
import { refine } from '../refine/refine.ts';
import type { RefineOptions } from '../refine/refine-options.ts';
import type { RefineProgress, Teacher } from '../refine/refine-request.ts';
import type { RefineWork } from '../refine/refine-work.ts';
import { isHeldOut, type PortOptions } from './port-options.ts';
import type { PortTeacher } from './port-source.ts';

/** Changes of a base, and the concepts whose words it reads with them. */
export interface WordedModel {
  readonly deltas: ModelDeltas;
  readonly concepts: readonly Concept[];
}

export interface PortToRefine {
  readonly base: Checkpoint;
  readonly teachers: readonly PortTeacher[];
  /** Their words as they were trained. */
  readonly native: readonly Concept[];
  readonly ported: WordedModel;
  readonly captions: readonly string[];
  /** Prompts with `{}` for the concepts' names. */
  readonly templates: readonly string[];
  /** Of the latents that are drawn and compared. */
  readonly size: LatentSize;
  readonly options: RefineOptions;
  readonly execution: ExecutionContext<RefineProgress>;
}

/**
 * Move the UNet's factors of the ported model so that its guided predictions are those of each concept's own model, and those of the
 * base for captions. Not those of the fusion that was ported: it says less of the concepts than their own models do, and what it
 * says it says beside an empty prompt of its own (docs/portable.md).
 * @returns all of the ported model's changes, and the error on held-out templates' predictions
 * @throws as `refine`
 */
export async function refinePort({
  base,
  teachers: models,
  native: words,
  ported,
  captions,
  templates,
  size,
  options,
  execution,
}: PortToRefine): Promise<{ deltas: ModelDeltas; checks: readonly HeldOutCheck[] }> {
  const { tokenizers, layers } = base.parts;
  const native = bindConcepts(tokenizers, words, layers.contextCount);
  const shared = bindConcepts(tokenizers, ported.concepts, layers.contextCount);
  const reader = new PromptReader(base, shared, execution);
  const ownReader = new PromptReader(base, native, execution);
  const inPorted = new ModelReading(reader, size, ported.deltas);
  const teachers: Teacher[] = [];
  for (const { name, deltas } of models) {
    const inOwn = new ModelReading(ownReader, size, deltas);
    const prompts = {
      taught: taughtTemplates(templates),
      judging: templates.filter((_, i) => isHeldOut(i)),
    };
    teachers.push(await conceptTeacher(name, inOwn, inPorted, prompts));
  }
  const inBase = new ModelReading(reader, size);
  const refined = await refine({
    base,
    size,
    schedule: checkpointSchedule(base),
    start: inPorted.deltas,
    noPrompt: await noPromptOf(inBase, inPorted),
    concepts: teachers,
    preserved: await captionTeacher(inBase, inPorted, captions),
    options,
    execution,
  });
  return {
    deltas: new Map([...ported.deltas, ...outside('unet', refined.layers)]),
    checks: refined.checks,
  };
}

/** Options of the refinement of a port. */
export function portRefineOptions(
  base: Checkpoint,
  size: LatentSize,
  { refine, seed }: Pick<PortOptions, 'refine' | 'seed'>,
): RefineOptions {
  return refineOptionsFor(base, size, { steps: refine, seed });
}

/**
 * Work of the refinement of a port, as `refineWork`.
 * @param teachers how many concepts' own models
 */
export function portRefineWork(
  { base, size, captions }: Pick<PortToRefine, 'base' | 'size' | 'captions'>,
  options: PortOptions,
  teachers: number,
): RefineWork {
  const templates = taughtTemplates(options.templates).length;
  return workOf(portRefineOptions(base, size, options), { teachers, templates, captions });
}

const taughtTemplates = (templates: readonly string[]): string[] => templates.filter((_, i) => !isHeldOut(i));
