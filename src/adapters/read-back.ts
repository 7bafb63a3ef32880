/** Adapters and words about to be written, compared with what their own reader makes of the file. */

import type { TensorFile } from '../formats/tensor-file.ts';
import { adapterModuleId } from '../models/families/adapter-layers.ts';
import type { AdapterComponent, AdapterLayer, AdapterWord } from './adapter.ts';
import { readAdapter } from './read.ts';
import { partTensors } from './schemes/factor-tensors.ts';
import { SCHEME_TABLE, type SchemeTable } from './schemes/index.ts';
import { differenceOf, readUnwritten, unreadable } from './unwritten-file.ts';

/** What a file is meant to hold. */
export interface Intended {
  readonly layers: readonly AdapterLayer[];
  readonly words: readonly AdapterWord[];
  /** Whether the scheme stores what words are called; default true. */
  readonly named?: boolean;
  /** PEFT: the network of the folder, and the configuration that will lie beside the weights. */
  readonly component?: AdapterComponent;
  readonly config?: Readonly<Record<string, unknown>>;
}

/** Alphas are stored in float32. */
const SCALE_TOLERANCE = 1e-6;

/** @throws {FormatError} if the reader would refuse the file, or find other layers, factors, scales or words in it */
export function refuseUnreadable(
  target: string,
  scheme: string,
  file: TensorFile,
  intended: Intended,
  table: SchemeTable = SCHEME_TABLE,
): void {
  const { layers, words, named = true, component, config } = intended;
  const unlisted = layers.some(({ own }) => own !== undefined);
  const found = readUnwritten(target, scheme, () =>
    readAdapter(file, { component, config, table, unlisted }),
  );
  const fail = (reason: string | null): void => {
    if (reason !== null) throw unreadable(target, scheme, reason);
  };
  if (found.unusable.length > 0) fail(`${found.unusable[0]!.name}: ${found.unusable[0]!.reason}`);
  fail(differenceOf('layer', layers.map(adapterModuleId), [...found.layers.keys()]));
  for (const layer of layers) fail(layerDifference(layer, found.layers.get(adapterModuleId(layer))!));
  const signature = (word: AdapterWord): string =>
    [
      named ? `${word.word} (` : '(',
      `${word.encoder}, [${word.embedding.shape.join(', ')}], ${countOf(word)})`,
    ].join('');
  fail(differenceOf('word', words.map(signature), found.words.map(signature)));
}

/** What the vectors are of; one alone serves every layer, and is one token. */
function countOf({ embedding, rows }: AdapterWord): string {
  if (embedding.shape[0] === 1) return 'one vector';
  return `one vector per ${rows === 'layers' ? 'layer' : 'token'}`;
}

function layerDifference(written: AdapterLayer, read: AdapterLayer): string | null {
  const id = adapterModuleId(written);
  if (!(Math.abs(read.scale - written.scale) <= SCALE_TOLERANCE * Math.abs(written.scale))) {
    return `${id} would count ${read.scale} times, not ${written.scale} times`;
  }
  const [own, other] = [partTensors(written), new Map(partTensors(read))];
  if (own.length !== other.size) return `${id} would be read with other parts`;
  for (const [suffix, tensor] of own) {
    if (other.get(suffix)?.storage !== tensor.storage) return `${id} would be read with other numbers`;
  }
  return null;
}
