/** Texts and pictures to one embedding: the mean of all by their weights. */
import path from 'node:path';
import { MismatchError, UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { readPicture } from '../formats/picture.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { ClipEncoder } from '../models/clip/clip-encoder.ts';
import type { ClipModel } from '../models/clip/clip-model.ts';
import { encodeText } from '../models/clip/encode-text.ts';
import { pooledPosition, TokenEmbeddings } from '../models/clip/text-encoder.ts';
import { type ExecutionRequest, executionContext } from '../runtime/execution-context.ts';
import { visible } from '../visible.ts';
import type { Deprojector } from './deprojector.ts';
import { meanEmbedding, projected, unit, type WeightedEmbedding } from './embedding.ts';

/** A text or a picture, and how much of it: only the ratios of weights count. */
export type EmbeddedPart =
  | { readonly text: string; readonly weight: number }
  | { readonly image: string; readonly weight: number };

export interface EmbedRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  readonly deprojector: Deprojector;
  /** Opened where pictures are embedded, never for texts alone. */
  readonly clip: () => Promise<ClipModel>;
}

/** `maid:0.7` → the text and its weight; a colon that no number follows belongs to the text. */
export function parseEmbedded(value: string): { readonly value: string; readonly weight: number } {
  const match = /^(.*):\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*$/s.exec(value);
  return match === null ? { value, weight: 1 } : { value: match[1]!, weight: Number(match[2]) };
}

/** In words: `"a cat" + 0.7 × "maid" + 0.5 × photo.png`. */
export function describeParts(parts: readonly EmbeddedPart[]): string {
  return parts
    .map((part) => {
      const what = 'text' in part ? `"${part.text}"` : path.basename(part.image);
      return part.weight === 1 ? what : `${part.weight} × ${what}`;
    })
    .join(' + ');
}

/**
 * The embedding of the parts, [P], of length 1; each part is brought to length 1 before it is weighed.
 * @throws {UsageError} for no parts, texts that the encoder cannot read whole, and parts that cancel each other
 * @throws {MismatchError} if the CLIP model's projection is another one than the deprojector's
 * @throws {FormatError} for pictures that cannot be read
 */
export async function embed(parts: readonly EmbeddedPart[], request: EmbedRequest): Promise<Float32Array> {
  const found: WeightedEmbedding[] = [];
  const images = parts.filter((part) => 'image' in part);
  const texts = parts.filter((part) => 'text' in part);
  const ofTexts = await textEmbeddings(
    texts.map(({ text }) => text),
    request,
  );
  texts.forEach(({ weight }, i) => {
    found.push({ embedding: ofTexts[i]!, weight });
  });
  const ofImages = await imageEmbeddings(
    images.map(({ image }) => image),
    request,
  );
  images.forEach(({ weight }, i) => {
    found.push({ embedding: ofImages[i]!, weight });
  });
  return meanEmbedding(found);
}

async function textEmbeddings(
  texts: readonly string[],
  { base, deprojector, ...execution }: EmbedRequest,
): Promise<Float32Array[]> {
  if (texts.length === 0) return [];
  const { textEncoder: encoder } = base.parts;
  const { maxPositions, hiddenSize: width, eosTokenId } = encoder.config;
  const batch = texts.map((text) => {
    const ids = base.tokenizer.encode(text);
    if (ids.length > maxPositions) {
      throw new UsageError(
        `embed "${excerpt(text)}": expected at most ${maxPositions} tokens, which have one embedding, got ${ids.length}; divide it into several texts`,
      );
    }
    return base.tokenizer.encodePadded(text, maxPositions).ids;
  });
  const table = new TokenEmbeddings(encoder.weights, encoder.config);
  const { hiddenStates } = await encodeText(encoder, table, batch, {}, executionContext(execution));
  return batch.map((ids, i) => {
    const at = (i * maxPositions + pooledPosition(ids, eosTokenId)) * width;
    return unit(projected(deprojector.space, hiddenStates.data.subarray(at, at + width)));
  });
}

async function imageEmbeddings(
  files: readonly string[],
  { deprojector, clip: open, ...execution }: EmbedRequest,
): Promise<Float32Array[]> {
  if (files.length === 0) return [];
  const clip = await open();
  const { projection, projectionDim } = deprojector.space;
  const raw = clip.weights.get('text_projection.weight');
  const theirs = raw === undefined ? null : readFloat32(raw);
  if (theirs?.length !== projection.length || theirs.some((value, i) => value !== projection[i])) {
    throw new MismatchError(
      `${clip.path}: expected the CLIP model that ${visible(deprojector.label)} was trained with, got one with another text projection`,
    );
  }
  const pictures = await Promise.all(files.map((file) => readPicture(file)));
  const encoder = new ClipEncoder(clip, { batch: Math.min(32, files.length), ...execution });
  try {
    const { data } = await encoder.pictures(pictures);
    return files.map((_, i) => data.slice(i * projectionDim, (i + 1) * projectionDim));
  } finally {
    await encoder.dispose();
  }
}
