/** What a job reads: adapters with their strengths, base models, and how its recipe names them. */

import type { Adapter } from '../../adapters/adapter.ts';
import type { BaseWeights } from '../../adapters/delta.ts';
import { loadAdapter } from '../../adapters/read.ts';
import { InputFiles } from '../../formats/input-files.ts';
import * as path from '../../io/platform/paths.ts';
import { recordedPath } from '../../io/recorded-path.ts';
import { parseBlockWeights } from '../block-weights.ts';
import type { MergeInput } from '../merge.ts';
import { baseWeightsOf, type ModelFiles, openModelFiles } from '../model-files.ts';

/** One adapter and how much of it. */
export interface StrengthOptions {
  readonly path: string;
  readonly strength: number;
  /** `null`: as `strength`. */
  readonly textEncoderStrength: number | null;
  /** As `parseBlockWeights` reads it; `null`: none. */
  readonly blockWeights: string | null;
}

/** Open adapters with their strengths. @throws as `loadAdapter` and `parseBlockWeights` */
export async function loadMergeInputs(inputs: readonly StrengthOptions[]): Promise<MergeInput[]> {
  return Promise.all(
    inputs.map(async ({ path: file, strength, textEncoderStrength, blockWeights }) => {
      const adapter = await loadAdapter(file);
      return {
        adapter,
        strength,
        ...(textEncoderStrength === null ? {} : { textEncoderStrength }),
        ...(blockWeights === null
          ? {}
          : { blockWeights: parseBlockWeights(blockWeights, adapter.architecture) }),
      };
    }),
  );
}

export async function baseOf(
  location: string | undefined,
): Promise<{ model: ModelFiles; weights: BaseWeights } | null> {
  if (location === undefined) return null;
  const model = await openModelFiles(location);
  return { model, weights: baseWeightsOf(model) };
}

/** A base as recipes name it. */
export const nameOf = (base: { readonly model: ModelFiles } | null, out: string): string | null =>
  base === null ? null : recordedPath(base.model.path, path.dirname(path.resolve(out)));

export const listed = (location: string | undefined): string[] => (location === undefined ? [] : [location]);

export const describeModel = (model: ModelFiles) => ({
  path: model.path,
  files: [...new Set(model.parts.flatMap(({ file }) => [...filesOf(file.path, file.tensors.values())]))],
});

/** A weight file, or the shards that its tensors lie in. */
function filesOf(
  file: string,
  tensors: Iterable<{ storage: { range: { file: string } | null } }>,
): Set<string> {
  const files = new Set([file]);
  for (const { storage } of tensors) if (storage.range !== null) files.add(storage.range.file);
  return files;
}

/** The files of a job as they are when it begins: what is hashed at its end must be what was read. */
export function filesOfInputs(
  inputs: readonly { readonly files: readonly string[] }[],
  signal?: AbortSignal,
): InputFiles {
  return new InputFiles(signal).add(inputs.flatMap(({ files }) => files));
}

export function describeInputs(
  adapters: readonly Adapter[],
  given: readonly StrengthOptions[],
  base: ModelFiles | undefined,
): { path: string; files: readonly string[]; settings?: Readonly<Record<string, unknown>> }[] {
  return [
    ...adapters.map(({ path: own, files }, i) => {
      const { path: _, ...settings } = given[i]!;
      return { path: own, files, settings };
    }),
    ...(base === undefined ? [] : [{ ...describeModel(base), settings: { role: 'base' } }]),
  ];
}

export function describeSingle(adapter: Adapter, base: ModelFiles | undefined) {
  return [
    { path: adapter.path, files: adapter.files },
    ...(base === undefined ? [] : [{ ...describeModel(base), settings: { role: 'base' } }]),
  ];
}
