/**
 * Everything that a training run can be told, with its default. The command's options and the YAML file are read by
 * this one schema, which is also published as JSON Schema.
 */
import { z } from 'zod';
import { jsonExcerpt, lengthExcerpt } from '../formats/excerpt.ts';
import { RATE_SCHEDULES } from '../optim/learning-rate.ts';
import { MAX_PATH_LENGTH, MAX_PROMPT_LENGTH } from '../sampling/limits.ts';

/** Steps of the longest runs are some hundred thousand. */
const MAX_STEPS = 10_000_000;
/** Pictures of a batch, batches of a step, crops of a picture: all of them are held, or computed one after the other. */
const MAX_BATCH = 1024;
/** The widest layer of Stable Diffusion 1.x has 5120 inputs. */
const MAX_RANK = 5120;
/** Pixels of a side; these models were trained at 512. */
const MAX_RESOLUTION = 2048;
/** Weights and rates are below 100 in use; beyond this float32 has no number for what a step does with them. */
const MAX_AMOUNT = 1e30;
/** Every number of the run is derived from the seed, exactly. */
const MAX_SEED = 2 ** 52;
/** Layers of a pattern list: Stable Diffusion 1.x has fewer than 400. */
const MAX_PATTERNS = 1000;

const range = (low: number, high: number) => ({
  error: ({ input }: { readonly input?: unknown }) => `expected ${low} … ${high}, got ${jsonExcerpt(input)}`,
});
const ranged = (low: number, high: number) =>
  z.number().min(low, range(low, high)).max(high, range(low, high));
const whole = (low: number, high: number) =>
  z.number().int().min(low, range(low, high)).max(high, range(low, high));
const textUpTo = (length: number) =>
  z.string().max(length, {
    error: ({ input }) => `expected at most ${length} characters, got ${lengthExcerpt(input)}`,
  });

const path = textUpTo(MAX_PATH_LENGTH).refine(
  (value) => !value.includes('\0'),
  'expected a path without NUL',
);
const prompt = textUpTo(MAX_PROMPT_LENGTH);
const count = whole(1, MAX_STEPS);
const countOrNone = whole(0, MAX_STEPS);
const share = ranged(0, 1);
const amount = ranged(0, MAX_AMOUNT);
const patterns = z
  .record(textUpTo(1000).min(1), amount)
  .refine((given) => Object.keys(given).length <= MAX_PATTERNS, `expected at most ${MAX_PATTERNS} patterns`);

export const TRAINING_METHOD_NAMES = [
  'ed-lora',
  'textual-inversion',
  'xti',
  'lora',
  'custom-diffusion',
  'dreambooth-lora',
] as const;
export type TrainingMethodName = (typeof TRAINING_METHOD_NAMES)[number];

export const trainingSchema = z
  .strictObject({
    method: z.enum(TRAINING_METHOD_NAMES).default('ed-lora').describe('What is trained'),
    data: path.min(1).describe('Folder with pictures, captions and masks'),
    token: prompt
      .default('')
      .describe('New words, joined by +, e.g. <cat1>+<cat2>; none: the method trains weights alone'),
    init: prompt
      .default('')
      .describe('Where each word starts, joined by +: <rand-0.013>, or a word that is one token'),

    steps: count.default(1000).describe('Optimiser steps'),
    batch: whole(1, MAX_BATCH).default(2).describe('Pictures a step'),
    accumulate: whole(1, MAX_BATCH).default(1).describe('Batches whose gradients are averaged before a step'),
    seed: whole(-MAX_SEED, MAX_SEED).default(0).describe('Of every random number of the run'),
    threads: whole(1, 1024).optional().describe('CPU threads; default one per core'),
    checkpointBlocks: z
      .boolean()
      .default(false)
      .describe(
        'Compute blocks a second time instead of keeping their values: less memory, a third more time',
      ),

    lrEmbedding: amount.optional().describe('Learning rate of embeddings; 0 keeps them'),
    lrText: amount.optional().describe('Learning rate of the text encoder’s factors; 0 leaves them out'),
    lrUnet: amount.optional().describe('Learning rate of the UNet’s factors; 0 leaves them out'),
    schedule: z.enum(RATE_SCHEDULES).default('linear').describe('How learning rates fall'),
    warmup: countOrNone.default(0).describe('Steps over which they first rise'),
    weightDecay: amount.default(0.01).describe('AdamW’s weight decay'),
    maxGradNorm: amount.default(0).describe('Largest norm of all gradients together; 0: no limit'),

    factors: z
      .enum(['lora', 'loha', 'dylora', 'orthogonal'])
      .default('lora')
      .describe(
        'Form of the change: factors, their Hadamard product, nested ranks, or factors on inputs that no other concept acts on',
      ),
    rank: whole(1, MAX_RANK).optional().describe('Of the factors'),
    alpha: amount.optional().describe('Scale of the factors; default: the method’s'),
    layers: z
      .enum(['attention', 'transformer'])
      .default('attention')
      .describe('Layers of the UNet that are trained'),
    textLayers: z
      .enum(['attention', 'transformer'])
      .default('attention')
      .describe('Layers of the text encoder that are trained'),
    convRank: whole(0, MAX_RANK).default(0).describe('Rank on 3×3 convolutions of the UNet (LoCon); 0: none'),
    rankPattern: patterns.default({}).describe('Other ranks for layers whose name contains the key'),
    alphaPattern: patterns.default({}).describe('Other alphas for layers whose name contains the key'),
    rankDropout: share.default(0).describe('Chance that a step leaves out each rank of each layer'),
    moduleDropout: share.default(0).describe('Chance that a step leaves out a layer’s factors'),
    kvDrop: share.default(0).describe('The same for K and V of cross-attention alone'),

    resolution: whole(8, MAX_RESOLUTION)
      .optional()
      .describe('Pixels of the side of a square picture; default: what the base was trained at'),
    buckets: z.boolean().default(false).describe('Keep aspect ratios: sizes of about resolution² pixels'),
    flip: z.boolean().default(false).describe('Also use pictures mirrored'),
    crops: whole(1, MAX_BATCH).default(1).describe('Random crops a picture, where it is not square'),
    shifts: whole(0, MAX_BATCH)
      .default(0)
      .describe('Copies a picture with the masked object moved inside the frame, edges continued'),
    latents: z
      .enum(['sample', 'mean'])
      .default('sample')
      .describe('What the autoencoder’s distribution gives'),
    cropMode: z
      .enum(['random', 'centre'])
      .default('random')
      .describe('Which part of a picture that is not square'),

    prompt: prompt.default('').describe('Caption for pictures without one; <TOK> stands for the words'),
    captions: z
      .enum(['auto', 'file-name', 'prompt'])
      .default('auto')
      .describe('auto: .txt, .json(l); file-name: the name; prompt: one for all'),
    captionFolder: path.default('').describe('Folder of caption files; default: beside the pictures'),
    templates: z
      .enum(['none', 'object', 'style'])
      .default('none')
      .describe('Put each caption into a random prompt template, instead of as it is'),
    shuffleCaptions: z.boolean().default(false).describe('Shuffle the parts of a caption between commas'),
    keepParts: whole(0, MAX_PROMPT_LENGTH).default(1).describe('Leading parts that keep their place'),
    captionDropout: share.default(0).describe('Chance of an empty caption'),
    captionsPerBatch: whole(0, MAX_BATCH)
      .default(0)
      .describe(
        'Pictures of a batch share so many captions: less work for the text encoder; 0: each its own',
      ),

    masks: path
      .default('auto')
      .describe('auto: NN_mask.png beside the picture, else its alpha channel; none; or a folder'),
    noiseOffset: amount.optional().describe('Deviation of the noise’s mean per channel'),
    timesteps: z
      .enum(['uniform', 'stratified'])
      .default('uniform')
      .describe('Each row’s own, or one from each equal part of the range: less noise in the gradient'),
    minSnrGamma: amount
      .default(0)
      .describe('Timesteps with less noise count less, by min(SNR, this) / SNR; 0: all alike, 5 is common'),
    attentionWeight: amount
      .default(0)
      .describe('Attention regularisation; needs two words for each concept, and masks'),
    fullIdentity: z
      .boolean()
      .default(true)
      .describe('The second word’s map must fill the mask, not only stay inside'),
    normStop: amount.default(0.55).describe('Embeddings stop once their mean norm reaches it; 0: never'),

    vectors: whole(1, 75).default(1).describe('Textual Inversion: vectors per word'),
    progressive: z.boolean().default(false).describe('Textual Inversion: add one vector after the other'),
    perImageTokens: z
      .boolean()
      .default(false)
      .describe('Textual Inversion: one more word per picture, dropped at the end'),
    classWeight: amount.default(0).describe('Pull embeddings towards where they started'),
    kdeWeight: amount.default(0).describe('XTI: pull embeddings to where words lie, by kernel density'),
    kdeBandwidth: ranged(1e-6, MAX_AMOUNT).default(0.5).describe('Width of that kernel'),

    priorWeight: amount.optional().describe('Weight of class pictures in the loss'),
    classData: path.default('').describe('Folder of class pictures; missing ones are drawn by the base'),
    classPrompt: prompt.default('').describe('Caption of class pictures, and the prompt to draw them with'),
    classImages: whole(1, 100_000).default(100).describe('Class pictures there shall be'),

    saveEvery: countOrNone.default(100).describe('Steps between two saves of the state; 0: at the end only'),
    sampleEvery: countOrNone.default(0).describe('Steps between two sample pictures; 0: none'),
    samplePrompt: prompt.default('photo of a <TOK>').describe('What they show'),
    format: z
      .enum(['auto', 'kohya', 'diffusers', 'peft', 'ed-lora'])
      .default('auto')
      .describe('Names in the file; auto: ed-lora where there are words, else kohya'),
    dtype: z.enum(['fp32', 'fp16', 'bf16']).default('fp32').describe('Of the numbers in the file'),
  })
  .describe('Settings of a training run');

/** As written in a file or on the command line. */
export type TrainingInput = z.input<typeof trainingSchema>;
export type TrainingSettings = z.output<typeof trainingSchema>;

/** The published schema of `--config` files, docs/train.schema.json. */
export function trainingJsonSchema(): Record<string, unknown> {
  return z.toJSONSchema(trainingSchema, { io: 'input' }) as Record<string, unknown>;
}
