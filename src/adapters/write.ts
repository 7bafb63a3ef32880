/** Writing adapters: what a scheme cannot hold is listed first and needs the user's word; then files, whole or not at all. */

import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { writeTorchZip } from '../formats/torch-writer.ts';
import * as path from '../io/platform/paths.ts';
import { makeFolder, writeFileAtomically } from '../io/replace-file.ts';
import { writeFolderAtomically } from '../io/replace-folder.ts';
import { checkFileTarget, checkFolderTarget, type TargetRules } from '../io/targets.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import { Pace } from '../pace.ts';
import type { Adapter, AdapterLayer, LoraLayer } from './adapter.ts';
import { foldScale, withOneAlpha } from './encode-layer.ts';
import { refuseNonFinite } from './finite.ts';
import { refuseUnreadable } from './read-back.ts';
import { partTensors } from './schemes/factor-tensors.ts';
import { SCHEME_TABLE, type SchemeTable } from './schemes/index.ts';
import { type EncodedFile, isPlainLora, type OutputAdapter, type Scheme } from './schemes/scheme.ts';
import { unwrittenFile } from './unwritten-file.ts';

export type { OutputAdapter } from './schemes/scheme.ts';

/** Something that a target cannot hold. */
export interface UnsupportedEntry {
  readonly name: string;
  readonly reason: string;
}

/** What would be lost by writing in a scheme. */
export function unsupportedBy(
  format: string,
  { layers, words, architecture }: OutputAdapter,
  table: SchemeTable = SCHEME_TABLE,
): UnsupportedEntry[] {
  const scheme = schemeOf(format, table);
  const unsupported: UnsupportedEntry[] = [];
  for (const layer of layers) {
    const name = adapterModuleId(layer);
    const reason = scheme.refuses(layer, architecture);
    if (reason !== null) unsupported.push({ name, reason });
    else if (layer.biasDiff !== null && !scheme.anyKind) {
      unsupported.push({
        name: `${name} (bias)`,
        reason: `${format} has no place for a difference of biases`,
      });
    }
  }
  for (const { word, rows, encoder } of words) {
    if (scheme.words === 'none')
      unsupported.push({ name: word, reason: `${format} files hold no embeddings` });
    else if (scheme.words === 'tokens' && rows === 'layers') {
      unsupported.push({
        name: word,
        reason: 'one vector per cross-attention layer; the scheme holds one per token',
      });
    } else if (encoder === 'text_encoder_2' && !scheme.secondEncoder) {
      unsupported.push({ name: word, reason: 'a vector of the second text encoder' });
    }
  }
  return unsupported;
}

/** @throws {UsageError} listing what would be lost, unless `drop` */
export function refuseLoss(target: string, unsupported: readonly UnsupportedEntry[], drop: boolean): void {
  if (drop || unsupported.length === 0) return;
  const listed = unsupported.slice(0, 20).map(({ name, reason }) => `\n  ${name}: ${reason}`);
  if (unsupported.length > listed.length) listed.push(`\n  … and ${unsupported.length - listed.length} more`);
  throw new UsageError(
    `${target}: ${unsupported.length} ${unsupported.length === 1 ? 'entry' : 'entries'} cannot be held; \`drop\` leaves them out:${listed.join('')}`,
  );
}

/**
 * Before any work: the target is no input, and nothing there goes without the caller's word.
 * @throws {UsageError} as `checkFileTarget` and `checkFolderTarget`
 */
export function checkAdapterTarget(
  target: string,
  format: string,
  rules: TargetRules,
  { schemes }: SchemeTable = SCHEME_TABLE,
): void {
  // Forms of embeddings alone are no schemes, and all of them files.
  if (schemes[format]?.folder) checkFolderTarget(target, rules);
  else checkFileTarget(target, rules);
}

/** Files of adapters, and the folders that hold them: inputs that no target may be. */
export function filesOfAdapters(adapters: readonly Adapter[]): string[] {
  return adapters.flatMap(({ path: own, files }) => [own, ...files]);
}

/**
 * Write an adapter in a scheme. Call `refuseLoss` first: what the scheme does not hold is left out here.
 * @param target a file; for `peft` a folder
 * @param pace   between layers and tensors; where it ends, nothing is left behind
 * @throws {FormatError} if the file would not be read again as what it is written for, or a number is not finite
 * @throws {UsageError} if the scheme holds nothing of it, a layer is given twice, is not yet plain LoRA where the scheme needs it, or a numbered scheme
 *   lacks some of its layers; {EdloraError} if the disk is full or read-only
 */
export async function writeAdapter(
  target: string,
  format: string,
  adapter: OutputAdapter,
  pace: Pace = new Pace(),
  table: SchemeTable = SCHEME_TABLE,
): Promise<void> {
  const scheme = schemeOf(format, table);
  const output = heldOf(target, scheme, adapter);
  await refuseNonFinite(carriedTensors(output), pace);
  const held: AdapterLayer[] = [];
  for (const layer of output.layers) {
    const own = scheme.anyKind ? layer : plainLora(target, layer);
    held.push(scheme.alpha === 'none' ? foldScale(own as LoraLayer) : own);
    await pace.turn();
  }
  const stored = scheme.alpha === 'one' ? withOneAlpha(held) : held;
  const files = await scheme.encode(output, stored, { target, pace });
  for (const { place, tensors, header, ...intended } of files) {
    const file = path.join(target, place);
    refuseUnreadable(file, format, unwrittenFile(file, tensors, header), intended, table);
  }
  if (!scheme.folder) return writeEncoded(target, files[0]!, pace);
  await writeFolderAtomically(target, async (temporary) => {
    for (const encoded of files) {
      const file = path.join(temporary, encoded.place);
      await makeFolder(path.dirname(file));
      await writeEncoded(file, encoded, pace);
      for (const [name, text] of Object.entries(encoded.beside ?? {})) {
        await writeFileAtomically(path.join(path.dirname(file), name), [text]);
      }
      await pace.turn();
    }
  });
}

/** What comes from files as it stands; factors that were computed are known to be finite. */
function carriedTensors({ layers, words }: OutputAdapter): RawTensor[] {
  const parts = layers.flatMap((layer) => partTensors(layer).map(([, tensor]) => tensor));
  const carried = parts.filter(({ storage }) => storage.range !== null);
  return [...carried, ...words.map(({ embedding }) => embedding)];
}

function schemeOf(format: string, { schemes }: SchemeTable): Scheme {
  const scheme = Object.hasOwn(schemes, format) ? schemes[format] : undefined;
  if (scheme === undefined) {
    throw new UsageError(`format: expected ${Object.keys(schemes).join(', ')}, got ${excerpt(format)}`);
  }
  return scheme;
}

/** What of an adapter a scheme holds. @throws {UsageError} if that is nothing, or a layer is given twice */
function heldOf(target: string, scheme: Scheme, adapter: OutputAdapter): OutputAdapter {
  const ids = new Set<string>();
  const held = adapter.layers.filter((layer) => {
    const id = adapterModuleId(layer);
    if (ids.has(id)) throw new UsageError(`${target}: layer ${id} given twice`);
    ids.add(id);
    return scheme.refuses(layer, adapter.architecture) === null;
  });
  // Only schemes of any kind have a place for differences of biases.
  const layers = scheme.anyKind ? held : held.map((layer) => ({ ...layer, biasDiff: null }));
  const words = adapter.words.filter(
    ({ rows, encoder }) =>
      (scheme.words === 'layers' || (scheme.words === 'tokens' && rows === 'tokens')) &&
      (encoder === 'text_encoder' || scheme.secondEncoder),
  );
  if (layers.length === 0 && words.length === 0) {
    const none =
      adapter.layers.length + adapter.words.length === 0 ? '' : `: ${scheme.name} holds none of it`;
    throw new UsageError(`${target}: nothing is left to write${none}`);
  }
  return { ...adapter, layers, words };
}

/** @throws {UsageError} if it is not one */
function plainLora(target: string, layer: AdapterLayer): LoraLayer {
  if (!isPlainLora(layer)) {
    throw new UsageError(`internal: ${target}: ${adapterModuleId(layer)} is not plain LoRA yet`);
  }
  return layer;
}

function writeEncoded(file: string, { tensors, header, torch }: EncodedFile, pace: Pace): Promise<void> {
  return torch === undefined
    ? writeSafetensors(file, tensors, header, pace)
    : writeTorchZip(file, torch, pace);
}
