/** The refinement of a ported model: the given one is its teacher, with one embedding per layer. */
import type { Concept } from '../../concepts/concept.ts';
import { bindConcepts } from '../../concepts/prompt.ts';
import type { Checkpoint } from '../../models/checkpoint.ts';
import { outside } from '../../models/families/layer-table.ts';
import type { ModelDeltas } from '../../models/lora.ts';
import type { ExecutionContext } from '../../runtime/execution-context.ts';
import { checkpointSchedule } from '../../sampling/checkpoint-schedule.ts';
import type { HeldOutCheck } from '../best-check.ts';
import { latentSizeOf, PromptReader } from '../prompt-reader.ts';
import { conceptPrompts } from '../prompts.ts';
import { captionTeacher, ModelReading, noPromptOf } from '../refine/readings.ts';
import { refine } from '../refine/refine.ts';
import type { RefineOptions } from '../refine/refine-options.ts';
import type { RefineProgress, Teacher } from '../refine/refine-request.ts';
import type { RefinePrompt } from '../refine/refine-states.ts';
import { isHeldOut } from './port-options.ts';

/** Changes of a base, and the concepts whose words it reads with them. */
export interface WordedModel {
  readonly deltas: ModelDeltas;
  readonly concepts: readonly Concept[];
}

export interface PortToRefine {
  readonly base: Checkpoint;
  readonly given: WordedModel;
  readonly ported: WordedModel;
  /** What prompts call the concepts. */
  readonly names: readonly string[];
  readonly captions: readonly string[];
  /** Prompts with `{}` for the names. */
  readonly templates: readonly string[];
  readonly options: RefineOptions;
  readonly execution: ExecutionContext<RefineProgress>;
}

/**
 * Move the UNet's factors of the ported model so that its guided predictions are those of the given one, and those of the base
 * for captions.
 * @returns all of the ported model's changes, and the error on held-out templates' predictions
 * @throws as `refine`
 */
export async function refinePort({
  base,
  given,
  ported,
  names,
  captions,
  templates,
  options,
  execution,
}: PortToRefine): Promise<{ deltas: ModelDeltas; checks: readonly HeldOutCheck[] }> {
  const { tokenizers, layers } = base.parts;
  const native = bindConcepts(tokenizers, given.concepts, layers.contextCount);
  const shared = bindConcepts(tokenizers, ported.concepts, layers.contextCount);
  const reader = new PromptReader(base, shared, execution);
  const size = latentSizeOf(base);
  const inGiven = new ModelReading(new PromptReader(base, native, execution), size, given.deltas);
  const inPorted = new ModelReading(reader, size, ported.deltas);
  const teachers: Teacher[] = [];
  for (const name of names) {
    const read = async (some: readonly string[]): Promise<RefinePrompt[]> => {
      const own = conceptPrompts(native, name, some).padded;
      const other = conceptPrompts(shared, name, some).padded;
      const prompts = [];
      for (const [i, ids] of own.entries()) {
        prompts.push({ own: await inGiven.read(ids), fused: await inPorted.read(other[i]!) });
      }
      return prompts;
    };
    teachers.push({
      name,
      deltas: inGiven.deltas,
      prompts: await read(templates.filter((_, i) => !isHeldOut(i))),
      heldOut: await read(templates.filter((_, i) => isHeldOut(i))),
    });
  }
  const inBase = new ModelReading(reader, size);
  const refined = await refine({
    base,
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
