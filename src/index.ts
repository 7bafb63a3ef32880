/**
 * The library. Everything the commands do, typed: open a model, load concepts, fuse, write.
 *
 * ```ts
 * import { defaultBase, fuse, loadConcept, openCheckpoint, writeFusion } from 'edlora';
 * const base = await openCheckpoint(defaultBase());
 * const participants = [{ concept: await loadConcept('a.pth') }, { concept: await loadConcept('b.pth') }];
 * const fusion = await fuse({ base, participants });
 * await writeFusion(fusion, 'fused');
 * ```
 */

export type { Adapter, AdapterLayer } from './concepts/adapter.ts';
export { loadAdapter } from './concepts/adapter-file.ts';
export type { Concept, ConceptToken, LoraLayer } from './concepts/concept.ts';
export { conceptName } from './concepts/concept.ts';
export { type LoadConceptOptions, loadConcept } from './concepts/concept-file.ts';
export { type Inspection, type InspectionKind, inspect } from './concepts/inspect.ts';
export { checkFinite, layerDelta } from './concepts/layer-delta.ts';
export {
  type LoraNaming,
  type MergedLayer,
  type WriteLoraOptions,
  writeEmbeddings,
  writeLora,
} from './concepts/lora-file.ts';
export { type ConceptSpec, readManifest } from './concepts/manifest.ts';
export { type BoundVocabulary, bindConcepts, renameTokens } from './concepts/prompt.ts';
export * from './errors.ts';
export { type AttentionMap, type AttentionMaps, attentionMaps } from './evaluation/attention-maps.ts';
export { bootstrapMean, type Interval } from './evaluation/bootstrap.ts';
export { ClipEncoder, type Embeddings } from './evaluation/clip-encoder.ts';
export { type VocabularyDensity, vocabularyDensity } from './evaluation/density.ts';
export { type EvaluateRequest, type Evaluation, evaluate, type Variant } from './evaluation/evaluate.ts';
export { type EvaluationSources, openEvaluationModels } from './evaluation/evaluation-models.ts';
export { type EvaluationReport, readEvaluationReport } from './evaluation/evaluation-report.ts';
export { type EvaluationRunRequest, runEvaluation } from './evaluation/evaluation-run.ts';
export { type NamedPicture, readPictureFolder } from './evaluation/picture-folder.ts';
export { defaultPrompts, loadPrompts, PROMPT_SETS } from './evaluation/prompt-sets.ts';
export { ReportFolder } from './evaluation/report-folder.ts';
export { imageAlignment, similarities, textAlignment } from './evaluation/similarity.ts';
export { type StyleMix, styleMix } from './evaluation/style-mix.ts';
export type { DType } from './formats/dtype.ts';
export { float32Tensor, type RawTensor, readBytes, readFloat32, readFloat64 } from './formats/raw-tensor.ts';
export { writeSafetensors } from './formats/safetensors.ts';
export { openTensorFile, type TensorFile } from './formats/tensor-file.ts';
export { readCaptions } from './fusion/captions.ts';
export { type FusedLayer, type Fusion, fuse } from './fusion/fuse.ts';
export { DEFAULTS, type FusionOptions, PRESETS, type Preset } from './fusion/options.ts';
export {
  checkFusionTarget,
  type WriteFusionOptions,
  type WrittenFile,
  writeFusion,
} from './fusion/output.ts';
export type { ParticipantInput } from './fusion/participant.ts';
export { type FuseRequest, type FusionPlan, planFusion } from './fusion/plan.ts';
export type { Recipe } from './fusion/recipe.ts';
export { readFusionRecipe, recipeParticipants, repeatedRequest } from './fusion/repeat.ts';
export type {
  ConceptReport,
  FusionProgress,
  FusionReport,
  LayerReport,
  ParameterChoice,
  StageReport,
} from './fusion/report/report.ts';
export type { Stage } from './fusion/stage.ts';
export { openStatistics, type StatisticsRecipe } from './fusion/statistics/statistics-file.ts';
export { cacheFolder, type LayerScope, StatisticsStore } from './fusion/statistics/statistics-store.ts';
export { type AdapterReport, describeAdapter } from './merging/adapter-report.ts';
export { type BlockWeights, parseBlockWeights } from './merging/block-weights.ts';
export { layerDelta as adapterLayerDelta } from './merging/delta.ts';
export { type FileHashes, fileHashes } from './merging/hashes.ts';
export {
  bakeFiles,
  convertFile,
  extractModel,
  mergeFiles,
  resizeFile,
} from './merging/jobs.ts';
export { type LintReport, lintMerge } from './merging/lint.ts';
export { type MergeInput, type MergeOptions, mergeAdapters } from './merging/merge.ts';
export { type MergeMethodName, mergeMethodNames } from './merging/method.ts';
export { type LayerFormat, layerFormats } from './merging/schemes.ts';
export { type VerifyReport, verifyFile } from './merging/verify.ts';
export { type Checkpoint, type CheckpointOptions, openCheckpoint } from './models/checkpoint.ts';
export { type ClipModel, openClipModel } from './models/clip/clip-model.ts';
export { defaultBase, packageRoot } from './package-root.ts';
export { withWeightsInMemory } from './runtime/onnxruntime/weight-mapping.ts';
export { type DrawnScene, type DrawSceneOptions, drawScene, planScene } from './sampling/draw-scene.ts';
export type { Box, Region, RegionShape, SoftMask } from './sampling/region.ts';
export type { SampleRequest } from './sampling/request.ts';
export {
  Pipeline,
  type PipelineParts,
  type SampledPicture,
  type SampleHooks,
} from './sampling/sample.ts';
export { type NormalScene, normalScene, type Scene } from './sampling/scene.ts';
export { readSceneFile } from './sampling/scene-file.ts';
