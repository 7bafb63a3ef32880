/**
 * The library. Everything the commands do, typed, sorted by job; docs/library.md has an example of each.
 *
 * ```ts
 * import { defaultBase, fuse, loadConcept, openCheckpoint, writeFusion } from 'edlora';
 * const base = await openCheckpoint(defaultBase());
 * const concepts = [{ concept: await loadConcept('a.pth') }, { concept: await loadConcept('b.pth') }];
 * const fusion = await fuse({ base, concepts });
 * await writeFusion(fusion, 'fused');
 * ```
 */

// Base models: where they lie, what they are made of.

export type { AdapterConfig } from './models/adapter/config.ts';
export type { T2iAdapter } from './models/adapter/open.ts';
export {
  type Checkpoint,
  type CheckpointOptions,
  type ModelPart,
  openCheckpoint,
} from './models/checkpoint.ts';
export type { BytePairVocabulary } from './models/clip/bpe.ts';
export { type ClipModel, clipBeside, openClipModel } from './models/clip/clip-model.ts';
export type { ClipTextConfig } from './models/clip/config.ts';
export type { ClipTokenizer } from './models/clip/tokenizer.ts';
export type { AddedToken, TokenizerFiles } from './models/clip/tokenizer-files.ts';
export type { ClipLayerConfig } from './models/clip/transformer.ts';
export type { ClipVisionConfig } from './models/clip/vision-config.ts';
export type { ClipPreprocessor } from './models/clip/vision-preprocessor.ts';
export type { ControlNetConfig } from './models/controlnet/config.ts';
export type { ControlNet } from './models/controlnet/open.ts';
export type { AdapterComponent, AdapterModule, Architecture } from './models/families/adapter-layers.ts';
export type {
  Conditioning,
  EncodedPrompts,
  MakeTokenEncoder,
  PictureSizes,
  TokenEncoder,
  TokenEncoderOptions,
} from './models/families/conditioning.ts';
export { timeIdsOf } from './models/families/conditioning.ts';
export { familyNamed } from './models/families/families.ts';
export type {
  AdapterFamily,
  AdapterLayout,
  BaseFamily,
  BaseLayout,
  ComponentLayout,
  Family,
  FamilySigns,
  OwnSpelling,
  TextEncoderLayout,
  TextReading,
} from './models/families/family.ts';
export type { ComponentId, Layer, LayerId, LayerRole, LayerTable } from './models/families/layer-table.ts';
export type { TextPart } from './models/families/model-part.ts';
export type { Networks, Parts } from './models/families/parts.ts';
export {
  type PromptIds,
  paddedIds,
  plainIds,
  type TokenIds,
  type Tokenizers,
} from './models/families/prompt-ids.ts';
export type { Component, ModulePath } from './models/keys/module-path.ts';
export type { ReadNames, StoredName } from './models/keys/read-names.ts';
export type { LayerDeltas, ModelDeltas } from './models/lora.ts';
export {
  type ModelSchedule,
  PREDICTION_TYPES,
  type PredictionType,
  type ScheduleKeys,
} from './models/model-schedule.ts';
export type { WeightSource } from './models/network.ts';
export type { UnetBlockConfig, UnetConfig } from './models/unet/config.ts';
export type { VaeConfig } from './models/vae/config.ts';
export { leanAdvice, wideBytes } from './models/wide-weights.ts';
export { defaultBase, packageRoot, toolVersion } from './package-root.ts';

// Where networks run: another device is another `Runtime`.

export type { Graph, GraphNode, GraphWeight, NodeOf } from './graph/graph.ts';
export type { NoAttributes, OpAttributes, OpType } from './graph/op-types.ts';
export type { GraphDType, Value, ValueSpec } from './graph/value.ts';
export type { ExecutionContext, ExecutionRequest } from './runtime/execution-context.ts';
export { withLeanWeights } from './runtime/half-weights.ts';
export { withWeightsInMemory } from './runtime/onnxruntime/weight-mapping.ts';
export { networksRestWithin } from './runtime/onnxruntime/worker-host.ts';
export type {
  DeviceTensor,
  Feeds,
  GraphUse,
  LoadedGraph,
  RunSettings,
  Runtime,
  RuntimeTraits,
  Targets,
} from './runtime/runtime.ts';

// Concepts and LoRA files: read, bound to words, written.

export type {
  Adapter,
  AdapterLayer,
  AdapterLayerInfo,
  AdapterWord,
  FullFactor,
  Kernel,
  LayerWeights,
  LoraLayer,
  PairFactor,
} from './adapters/adapter.ts';
export { loadAdapter, type ReadAdapterOptions } from './adapters/read.ts';
export {
  type Concept,
  type ConceptFormat,
  type ConceptToken,
  conceptName,
  type PlainLayer,
} from './concepts/concept.ts';
export { type LoadConceptOptions, loadConcept } from './concepts/concept-file.ts';
export { checkFinite } from './concepts/finite.ts';
export { type Inspection, type InspectionKind, type InspectOptions, inspect } from './concepts/inspect.ts';
export {
  type LoraNaming,
  loraNamings,
  type MergedLayer,
  type WriteLoraOptions,
  writeEmbeddings,
  writeLora,
} from './concepts/lora-file.ts';
export { type ConceptSpec, readManifest } from './concepts/manifest.ts';
export {
  type BoundToken,
  type BoundVocabulary,
  bindConcepts,
  type ConceptConfig,
  renameTokens,
} from './concepts/prompt.ts';
export { type FoundName, headerPhrase } from './concepts/trigger-phrase.ts';

// Deprojectors: from an embedding, or a mean of several, back to the text encoder's states.

export { deproject, deprojectParts } from './deprojector/apply.ts';
export type { Deprojector } from './deprojector/deprojector.ts';
export {
  describeParts,
  type EmbeddedPart,
  type EmbedRequest,
  embed,
  parseEmbedded,
} from './deprojector/embed.ts';
export { type EmbeddingSpace, meanEmbedding, type WeightedEmbedding } from './deprojector/embedding.ts';
export {
  openDeprojector,
  openStates,
  type TextStates,
  writeDeprojector,
  writeStates,
} from './deprojector/file.ts';
export type { HeldOutErrors } from './deprojector/held-out.ts';
export {
  DEPROJECTOR_MODEL_NAMES,
  type DeprojectorModelName,
} from './deprojector/models/index.ts';
export type { DeprojectorShape } from './deprojector/models/model.ts';
export {
  checkDeprojectorTarget,
  checkStatesTarget,
  type DeprojectorFiles,
  deprojectorFiles,
  writeTrainedDeprojector,
} from './deprojector/output.ts';
export {
  captionsOf,
  combinations,
  distinctPrompts,
  readPromptList,
  wordsOf,
} from './deprojector/prompts.ts';
export {
  type DeprojectorInput,
  type DeprojectorSettings,
  deprojectorSettings,
} from './deprojector/settings.ts';
export {
  type DeprojectorProgress,
  type DeprojectorRequest,
  type TrainedDeprojector,
  trainDeprojector,
} from './deprojector/train.ts';

// Merging, converting, resizing, extracting, baking; what other tools would do; whether a file is what it says.

export { type BaseWeights, type LayerDelta, layerDelta, scaledDelta } from './adapters/delta.ts';
export type { FactorDType } from './adapters/encode-layer.ts';
export type { CollectedLayers } from './adapters/layer-parts.ts';
export {
  type FileLayers,
  formatFor,
  type Program,
  type ProgramInput,
  type ProgramName,
  programNames,
  programs,
  unreadBy,
} from './adapters/programs.ts';
export { type LayerFormat, layerFormats, type SchemeTable, schemes } from './adapters/schemes/index.ts';
export type {
  Content,
  EncodeContext,
  EncodedFile,
  FactorKey,
  ReadContext,
  Scheme,
  SchemeReader,
} from './adapters/schemes/scheme.ts';
export { type WordFormat, wordFormats } from './adapters/words.ts';
export type { OutputAdapter, UnsupportedEntry } from './adapters/write.ts';
export { type AdapterReport, type BlockReport, describeAdapter } from './merging/adapter-report.ts';
export { type BlockWeights, parseBlockWeights } from './merging/block-weights.ts';
export type { ConvertedLayer } from './merging/convert.ts';
export {
  type ExtractedLayer,
  type ExtractOptions,
  type LayerChoice,
  layerChoices,
} from './merging/extract.ts';
export { type ForeignMergeName, foreignMergeNames } from './merging/foreign-merges.ts';
export { type FileHashes, fileHashes } from './merging/hashes.ts';
export { type BakeFilesOptions, bakeFiles } from './merging/jobs/bake-files.ts';
export { type ConvertFileOptions, convertFile } from './merging/jobs/convert-file.ts';
export { type ExtractModelOptions, extractModel } from './merging/jobs/extract-model.ts';
export type { StrengthOptions } from './merging/jobs/inputs.ts';
export { type LintFilesOptions, lintFiles } from './merging/jobs/lint-files.ts';
export { type MergeFilesOptions, mergeFiles } from './merging/jobs/merge-files.ts';
export { type ResizeFileOptions, resizeFile } from './merging/jobs/resize-file.ts';
export type { JobResult, TargetOptions } from './merging/jobs/target.ts';
export type { RankRule } from './merging/kept-rank.ts';
export { type LintedLayer, type LintOptions, type LintReport, lintMerge } from './merging/lint.ts';
export {
  type Merge,
  type MergeInput,
  type MergeOptions,
  mergeAdapters,
  type RenamedWord,
} from './merging/merge.ts';
export { type MajoritySign, MERGE_DEFAULTS, type MergeSettings } from './merging/method.ts';
export { type MergeMethodName, mergeMethodNames, mergeMethods } from './merging/methods/index.ts';
export type { JobKind } from './merging/provenance.ts';
export type { VerifiedInput } from './merging/recorded-inputs.ts';
export type { ResizedReport } from './merging/resize-adapter.ts';
export { type VerifyOptions, type VerifyReport, verifyFile } from './merging/verify.ts';

// Fusing: features are collected, layers solved, results written.

export type { HeldOutCheck } from './fusion/best-check.ts';
export { defaultCaptions, readCaptions, withEmptyPrompt } from './fusion/captions.ts';
export {
  type CollectedFile,
  type CollectProgress,
  type CollectRequest,
  collectStatistics,
} from './fusion/collect-statistics.ts';
export { estimateFusion, type FusionEstimate, type PlannedPort } from './fusion/estimate.ts';
export { fuse } from './fusion/fuse.ts';
export type { FusedLayer, Fusion } from './fusion/fusion.ts';
export type { FusionConcept, FusionConceptInput } from './fusion/fusion-concept.ts';
export { type GivenOption, idleOptionNotes } from './fusion/idle-options.ts';
export {
  type ChosenPerStage,
  type CollectOptions,
  checkFusionOptions,
  DEFAULTS,
  type FusionOptions,
  PRESETS,
  type Preset,
  type SolveOptions,
} from './fusion/options.ts';
export {
  checkFusionTarget,
  type FusionTarget,
  type WriteFusionOptions,
  type WrittenFile,
  writeFusion,
} from './fusion/output.ts';
export { type FuseRequest, type FusionPlan, planFusion } from './fusion/plan.ts';
export type { PortedLayer } from './fusion/port/answers.ts';
export { type Port, type PortProgress, type PortRequest, portable } from './fusion/port/port.ts';
export { checkPortOptions, PORT_DEFAULTS, type PortOptions } from './fusion/port/port-options.ts';
export {
  openPortSource,
  type PortSource,
  type PortSourceOptions,
  type PortTeacher,
  type PortTeachers,
} from './fusion/port/port-source.ts';
export {
  checkPortTarget,
  portableWords,
  type WritePortOptions,
  writePort,
} from './fusion/port/write-port.ts';
export { baseFiles, conceptFiles, type FusionRecipe, type RecordedFile } from './fusion/recipe.ts';
export { readFusionRecipe, recipeConcepts, repeatedRequest } from './fusion/repeat.ts';
export type {
  ConceptReport,
  FusionProgress,
  FusionReport,
  KeptPerStage,
  LayerReport,
  ParameterChoice,
  StageReport,
  Truncation,
} from './fusion/report/report.ts';
export { keptSentence, LARGE_CHANGE, LITTLE_KEPT, refinementAdvice } from './fusion/report/verdict.ts';
export {
  FUSION_METHODS,
  type FusionMethod,
  type FusionMethodName,
  type LayerSolution,
  type MethodContext,
  type MethodOptions,
  type MethodParameter,
  type PreparedInput,
} from './fusion/solvers/method.ts';
export type { InputProblem, LayerProblem, Preservation } from './fusion/solvers/problem.ts';
export { STAGES, type Stage, stageOf } from './fusion/stage.ts';
export type { StageLayers } from './fusion/statistics/collector.ts';
export type { StageStatistics, Statistics } from './fusion/statistics/statistics.ts';
export {
  openStatistics,
  type StatisticsKey,
  type StoredStatistics,
} from './fusion/statistics/statistics-file.ts';
export type { LayerScopes } from './fusion/statistics/statistics-recipe.ts';
export { cacheFolder, type LayerScope } from './fusion/statistics/statistics-store.ts';

// Training a concept from pictures.

export { TRAINING_METHODS } from './training/methods/index.ts';
export type { MethodDefaults, ResolvedSettings, TrainingMethod } from './training/methods/method.ts';
export type { TrainingFile } from './training/mix-of-show-options.ts';
export {
  TRAINING_METHOD_NAMES,
  type TrainingInput,
  type TrainingMethodName,
  type TrainingSettings,
  trainingJsonSchema,
  trainingSchema,
} from './training/options.ts';
export {
  checkTrainedTarget,
  samplePicture,
  stateFileOf,
  type TrainedFiles,
  writeTrained,
} from './training/output.ts';
export { type TrainingProgress, type TrainingRequest, trainingSettings } from './training/prepared-run.ts';
export type { StepLog } from './training/run-state.ts';
export {
  type TrainedConcept,
  train,
} from './training/train.ts';
export type { ParameterGroup } from './training/trainables.ts';
export { readTrainingFile } from './training/training-file.ts';

// Drawing pictures: from requests by a pipeline, or from scenes with models, regions and guides.

export { AUTO_ISOLATE, type AutoRegions, type WordRegion } from './sampling/auto-regions/auto-regions.ts';
export type { FoundPlace } from './sampling/auto-regions/found-places.ts';
export type { PlaceDoubt } from './sampling/auto-regions/place-doubts.ts';
export type { PlaceFinderName } from './sampling/auto-regions/place-finder.ts';
export { type RegionTexts, regionTexts } from './sampling/auto-regions/region-texts.ts';
export { COMBINATION_NAMES, type CombinationName } from './sampling/combine.ts';
export type { ConceptUse } from './sampling/concept-places.ts';
export {
  type DrawnPicture,
  type DrawnScene,
  type DrawProgress,
  type DrawSceneOptions,
  drawScene,
  type PlannedScene,
  planScene,
} from './sampling/draw-scene.ts';
export type { GivenStates, StatesInPlace } from './sampling/given-states.ts';
export { isGuided } from './sampling/guidance.ts';
export type { AdapterGuide, ControlGuide, RegionStrength } from './sampling/guides.ts';
export type { SceneConcept, SceneModel } from './sampling/model-source.ts';
export { readPictureScene } from './sampling/picture-recipe.ts';
export type { Box, Region, RegionShape, SoftMask } from './sampling/region.ts';
export {
  DEFAULT_SAMPLERS,
  REQUEST_DEFAULTS,
  type ResolvedRequest,
  type SampleRequest,
} from './sampling/request.ts';
export {
  Pipeline,
  type PipelineParts,
  type SampledPicture,
  type SampleHooks,
  type StepProgress,
} from './sampling/sample.ts';
export { SAMPLER_NAMES } from './sampling/samplers/create.ts';
export type { SamplerName, SchedulerClass } from './sampling/samplers/table.ts';
export {
  DEFAULT_DENOISE,
  type NormalScene,
  normalScene,
  type SceneRegion,
  type WeightFile,
} from './sampling/scene.ts';
export { checkScene, readSceneFile } from './sampling/scene-file.ts';
export type { PreparedScene } from './sampling/scene-request.ts';
export type { EmbeddedInPlace, Scene, WrittenRegion } from './sampling/scene-schema.ts';
export type { SceneStates } from './sampling/scene-states.ts';
export type { ScheduleOverrides, TimestepSpacing } from './sampling/scheduler-options.ts';

// Judging: pictures by CLIP, attention, words among words.

export {
  type AttentionMap,
  type AttentionMaps,
  type AttentionMapsRequest,
  attentionMaps,
} from './evaluation/attention-maps.ts';
export { type BootstrapOptions, bootstrapMean, type Interval } from './evaluation/bootstrap.ts';
export { type Comparison, compareEvaluations } from './evaluation/compare.ts';
export type { ComparedVariant } from './evaluation/compare-page.ts';
export { type DensityOptions, type VocabularyDensity, vocabularyDensity } from './evaluation/density.ts';
export {
  type Alignments,
  checkEvaluation,
  type DrawnSample,
  type EvaluateRequest,
  type Evaluation,
  type EvaluationProgress,
  type EvaluationSampling,
  evaluate,
  type PlannedEvaluation,
  type ScoredSample,
  type Variant,
  type VariantScores,
} from './evaluation/evaluate.ts';
export {
  type EvaluationModels,
  type EvaluationSources,
  loadWords,
  openEvaluationModels,
} from './evaluation/evaluation-models.ts';
export { type EvaluationReport, readEvaluationReport } from './evaluation/evaluation-report.ts';
export {
  type DescribedVariant,
  type EvaluationRunRequest,
  runEvaluation,
} from './evaluation/evaluation-run.ts';
export { type NamedPicture, readPictureFolder } from './evaluation/picture-folder.ts';
export { defaultPrompts, loadPrompts, PROMPT_SETS } from './evaluation/prompt-sets.ts';
export { ReportFolder } from './evaluation/report-folder.ts';
export { imageAlignment, similarities, textAlignment } from './evaluation/similarity.ts';
export {
  type MixedPrompt,
  type StyleMix,
  type StyleMixPoint,
  type StyleMixRequest,
  styleMix,
} from './evaluation/style-mix.ts';
export { ClipEncoder, type ClipEncoderOptions, type Embeddings } from './models/clip/clip-encoder.ts';

// Files and numbers underneath: tensors, pictures, matrices, and what happens when the system refuses.

export { type DType, FACTOR_DTYPES, factorDTypeNames } from './formats/dtype.ts';
export type { InputFiles } from './formats/input-files.ts';
export { openTensorFile } from './formats/open-tensor-file.ts';
export { type Picture, type ReadPictureOptions, readPicture } from './formats/picture.ts';
export { encodePng, readPngTexts, writePicture } from './formats/png.ts';
export { float32Tensor, type RawTensor, readBytes, readFloat32, readFloat64 } from './formats/raw-tensor.ts';
export { type SafetensorsMetadata, writeSafetensors } from './formats/safetensors.ts';
export type { TensorFile, TensorFileFormat } from './formats/tensor-file.ts';
export type { ByteRange, TensorStorage } from './formats/tensor-storage.ts';
export type {
  TorchDict,
  TorchDtype,
  TorchList,
  TorchReference,
  TorchSet,
  TorchSize,
  TorchTagged,
  TorchTensor,
  TorchTuple,
  TorchValue,
} from './formats/torch-value.ts';
export type { FileIdentity } from './io/file-identity.ts';
export { systemErrorInWords } from './io/on-disk.ts';
export type { TargetRules } from './io/targets.ts';
export { removeUnfinishedFiles } from './io/temporary-names.ts';
export type { FeatureRows, Gram, GramTerm, PackedSymmetric } from './linalg/gram.ts';
export { type LowRank, rankOf } from './linalg/low-rank.ts';
export type { MatmulEngine, Substitution } from './linalg/matmul-engine.ts';
export type { Matrix } from './linalg/matrix.ts';
export type { ReusedMemory } from './linalg/reused-memory.ts';
export type { Pace, Steps } from './pace.ts';
export type { Tensor, TensorData, TensorDType } from './tensor/tensor.ts';

// Errors, all of one family; progress, told alike by every long call.

export * from './errors.ts';
export type { Progress, SubjectProgress } from './progress.ts';
