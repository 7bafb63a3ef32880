/** A whole evaluation: draw, score, look inside, write the report. One call for the command line and the studio. */
import path from 'node:path';
import type { Concept } from '../concepts/concept.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import { recordedPath } from '../io/recorded-path.ts';
import { ClipEncoder } from '../models/clip/clip-encoder.ts';
import type { ClipModel } from '../models/clip/clip-model.ts';
import { vaeFactor } from '../models/vae/config.ts';
import { toolVersion } from '../package-root.ts';
import { REQUEST_DEFAULTS } from '../sampling/request.ts';
import { attentionMaps } from './attention-maps.ts';
import { vocabularyDensity } from './density.ts';
import { type DrawnSample, type EvaluateRequest, evaluate, type Variant } from './evaluate.ts';
import {
  type AttentionReport,
  type DensityReport,
  type EvaluationReport,
  evaluationReport,
  type StyleMixReport,
} from './evaluation-report.ts';
import { heatOverlay } from './heat-overlay.ts';
import type { NamedPicture } from './picture-folder.ts';
import { withWords } from './prompt-sets.ts';
import type { ReportFolder } from './report-folder.ts';
import { type StyleMixRequest, styleMix } from './style-mix.ts';

export interface DescribedVariant extends Variant {
  /** What the model is made of, in a phrase. */
  readonly description: string;
}

export interface EvaluationRunRequest
  extends Omit<EvaluateRequest, 'clip' | 'variants' | 'references' | 'onPicture'> {
  readonly clip: ClipModel;
  /** The first is what the others are compared with. */
  readonly variants: readonly DescribedVariant[];
  readonly references: readonly NamedPicture[];
  /** Names the concept in the report. */
  readonly concept: string;
  /** Where everything is written. */
  readonly folder: ReportFolder;
  /** Strip from one prompt to the other, drawn by the first variant. Default none. */
  readonly styleMix?: Pick<StyleMixRequest, 'a' | 'b' | 'switched' | 'count'> | null;
  /** Concepts whose embeddings are weighed against the vocabulary. Default none. */
  readonly density?: readonly Concept[];
  /** Attention maps of the first variant: of which prompt (`<TOK>` in the concept's place). Default none. */
  readonly attentionPrompt?: string | null;
}

/**
 * Run an evaluation and write its folder. Pictures drawn before an interrupt stay.
 * @throws as `evaluate`, and {EdloraError} if the folder cannot be written
 */
export async function runEvaluation(
  request: EvaluationRunRequest,
): Promise<{ report: EvaluationReport; files: { json: string; html: string } }> {
  const { clip: model, folder, base, variants, sampling = {} } = request;
  const { runtime, threads, signal } = request;
  const clip = new ClipEncoder(model, { runtime, threads, signal });
  try {
    const references: string[] = [];
    const evaluation = await evaluate({
      ...request,
      clip,
      onPicture: ({ variant, picture, prompt, seed }: DrawnSample) =>
        folder.savePicture(variant, picture, { prompt, seed: String(seed) }),
    });
    for (const picture of request.references)
      references.push(await folder.savePicture('references', picture));
    const size = base.parts.unet.config.sampleSize * vaeFactor((await base.parts.vae()).config);
    const report = evaluationReport(evaluation, {
      version: toolVersion(),
      base: recordedPath(base.path, folder.path),
      clip: recordedPath(model.path, folder.path),
      concept: request.concept,
      references,
      settings: {
        steps: sampling.steps ?? REQUEST_DEFAULTS.steps,
        guidanceScale: sampling.guidanceScale ?? REQUEST_DEFAULTS.guidanceScale,
        sampler: sampling.sampler ?? base.family.base.sampler,
        width: sampling.width ?? size,
        height: sampling.height ?? size,
      },
      descriptions: new Map(variants.map(({ name, description }) => [name, description])),
      styleMix: await mixed(request, clip),
      density: weighed(request),
      attention: await attended(request),
    });
    return { report, files: await folder.finish(report) };
  } finally {
    await clip.dispose();
  }
}

async function mixed(request: EvaluationRunRequest, clip: ClipEncoder): Promise<StyleMixReport | null> {
  const {
    styleMix: wanted = null,
    variants,
    seed = 0,
    sampling = {},
    runtime,
    threads,
    signal,
    folder,
  } = request;
  if (wanted === null) return null;
  const { order, points } = await styleMix({
    base: variants[0]?.base ?? request.base,
    clip,
    ...wanted,
    seed,
    sampling,
    onProgress: (progress) => request.onProgress?.({ variant: 'style mix', ...progress }),
    parts: variants[0]?.parts,
    runtime,
    threads,
    signal,
  });
  const saved: StyleMixReport['points'] = [];
  for (const { switched, toA, toB, pictures } of points) {
    const files: string[] = [];
    for (const picture of pictures) files.push(await folder.savePicture('style mix', picture));
    saved.push({ switched, toA, toB, files });
  }
  return { a: wanted.a.prompt, b: wanted.b.prompt, order: [...order], points: saved };
}

function weighed({ density: concepts = [], base }: EvaluationRunRequest): DensityReport[] | null {
  const tokens = concepts.flatMap((concept) => concept.tokens.map((token) => ({ concept, token })));
  if (tokens.length === 0) return null;
  return [...base.parts.textEncoders.keys()].map((encoder) => {
    const density = vocabularyDensity(base, { encoder });
    return {
      encoder,
      bandwidth: density.bandwidth,
      words: density.words,
      vocabulary: density.vocabulary,
      embeddings: tokens.map(({ concept, token }) => ({
        concept: path.parse(concept.path).name,
        word: token.word,
        logDensity: [...density.logDensity(readFloat32(token.embeddings.get(encoder)!))],
      })),
    };
  });
}

async function attended(request: EvaluationRunRequest): Promise<AttentionReport | null> {
  const {
    attentionPrompt = null,
    variants,
    seed = 0,
    sampling = {},
    runtime,
    threads,
    signal,
    folder,
  } = request;
  const first = variants[0];
  if (attentionPrompt === null || first === undefined) return null;
  const prompt = withWords(attentionPrompt, first.words);
  const { picture, maps } = await attentionMaps({
    base: first.base ?? request.base,
    prompt,
    seed,
    sampling,
    onProgress: (progress) => request.onProgress?.({ variant: 'attention', ...progress }),
    parts: first.parts,
    runtime,
    threads,
    signal,
  });
  const saved: AttentionReport['maps'] = [];
  for (const map of maps) {
    const { word, height, width, layers, values } = map;
    const file = await folder.savePicture('attention', heatOverlay(picture, map));
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const largest = values.reduce((most, value) => Math.max(most, value), 0);
    saved.push({ word, height, width, layers, largest, mean, file });
  }
  return { prompt, seed, picture: await folder.savePicture('attention', picture), maps: saved };
}
