/** What every job over files is told about its result, what it says of it, and how it is written. */

import type { Adapter } from '../../adapters/adapter.ts';
import { notesOnLayers } from '../../adapters/programs.ts';
import type { LayerFormat } from '../../adapters/schemes/index.ts';
import { notesOnWords, unsupportedLabels } from '../../adapters/words.ts';
import {
  type OutputAdapter,
  refuseLoss,
  type UnsupportedEntry,
  unsupportedBy,
  writeAdapter,
} from '../../adapters/write.ts';
import * as path from '../../io/platform/paths.ts';
import { adapterModuleId } from '../../models/families/adapter-layers.ts';
import { layoutOf } from '../../models/families/families.ts';
import { Pace } from '../../pace.ts';
import type { ExecutionRequest } from '../../runtime/execution-context.ts';
import { lastingEntries } from '../provenance.ts';

/** What every job may be told about its result, and what it runs with; ended by its signal, it leaves nothing behind. */
export interface TargetOptions extends ExecutionRequest {
  /** File, or folder for PEFT and baked diffusers models. */
  readonly out: string;
  /** Leave out what cannot be held. Default false. */
  readonly drop?: boolean;
  /** Replace an existing target. Default false. */
  readonly force?: boolean;
  /** Write no recipe and no inherited header. Default false. */
  readonly noMetadata?: boolean;
}

export interface JobResult {
  /** Absolute path of what was written. */
  readonly out: string;
  readonly layers: number;
  readonly words: readonly string[];
  /** What was left out because `drop` said so. */
  readonly dropped: readonly UnsupportedEntry[];
  /** What other programs make of it, where that is not all of it. */
  readonly notes: readonly string[];
}

/** Names of words and header entries that the target cannot hold; a header that is not wanted is not missed. */
export function labelsUnsupportedBy(
  { out, noMetadata = false }: TargetOptions,
  format: string,
  adapters: readonly Adapter[],
): UnsupportedEntry[] {
  return unsupportedLabels(out, format, {
    words: adapters.flatMap(({ words }) => words),
    metadata: noMetadata ? [] : adapters.flatMap(lastingEntries),
  });
}

/** The scheme of a result that nobody chose: kohya's, which most programs read; the inputs' own where only those have names. */
export function usualFormat(adapters: readonly Adapter[]): LayerFormat {
  if (adapters.every(({ architecture }) => layoutOf(architecture) !== null)) return 'kohya';
  return adapters.every(({ scheme }) => scheme === 'peft') ? 'peft' : 'own';
}

export async function finish(
  output: OutputAdapter,
  format: LayerFormat,
  unusable: readonly UnsupportedEntry[],
  target: TargetOptions,
  metadata: () => Promise<Record<string, string>>,
): Promise<JobResult> {
  const { out, drop = false, noMetadata = false } = target;
  const dropped = [...unusable, ...unsupportedBy(format, output)];
  refuseLoss(out, dropped, drop);
  const titled = { ...output, title: path.parse(out).name };
  const { mergedFrom, ...bare } = titled;
  const described = noMetadata ? bare : { ...titled, metadata: await metadata() };
  await writeAdapter(out, format, described, new Pace(target.signal));
  const lost = new Set(dropped.map(({ name }) => name));
  const held = {
    layers: output.layers.filter((layer) => !lost.has(adapterModuleId(layer))),
    words: output.words.filter(({ word }) => !lost.has(word)),
  };
  return {
    out: path.resolve(out),
    layers: held.layers.length,
    words: held.words.map(({ word }) => word),
    dropped,
    notes: [...notesOnWords(format, held.words), ...notesOnLayers(format, held.layers)],
  };
}
