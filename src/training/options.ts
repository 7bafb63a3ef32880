/**
 * Everything that a training run can be told, with its default. The command's options and the YAML file are read by
 * this one schema, which is also published as JSON Schema.
 */
import { z } from 'zod';
import { RATE_SCHEDULES } from './lr-schedule.ts';

const text = z.string().min(1);
const count = z.number().int().min(1);
const countOrNone = z.number().int().min(0);
const share = z.number().min(0).max(1);
const amount = z.number().min(0);
const patterns = z.record(text, amount);

export const METHOD_NAMES = [
  'ed-lora',
  'textual-inversion',
  'xti',
  'lora',
  'custom-diffusion',
  'dreambooth-lora',
] as const;
export type MethodName = (typeof METHOD_NAMES)[number];

export const trainingSchema = z
  .strictObject({
    method: z.enum(METHOD_NAMES).default('ed-lora').describe('What is trained'),
    data: text.describe('Folder with pictures, captions and masks'),
    token: z
      .string()
      .default('')
      .describe('New words, joined by +, e.g. <cat1>+<cat2>; none: the method trains weights alone'),
    init: z
      .string()
      .default('')
      .describe('Where each word starts, joined by +: <rand-0.013>, or a word that is one token'),

    steps: count.default(1000).describe('Optimiser steps'),
    batch: count.default(2).describe('Pictures a step'),
    accumulate: count.default(1).describe('Batches whose gradients are averaged before a step'),
    seed: z.number().int().default(0).describe('Of every random number of the run'),
    threads: count.optional().describe('CPU threads; default one per core'),
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
      .enum(['lora', 'loha', 'dylora'])
      .default('lora')
      .describe('Form of the change: factors, their Hadamard product, or nested ranks'),
    rank: count.optional().describe('Of the factors'),
    alpha: amount.optional().describe('Scale of the factors; default: the method’s'),
    where: z
      .enum(['attention', 'transformer'])
      .default('attention')
      .describe('Layers of the UNet that are trained'),
    textWhere: z
      .enum(['attention', 'transformer'])
      .default('attention')
      .describe('Layers of the text encoder that are trained'),
    convRank: countOrNone.default(0).describe('Rank on 3×3 convolutions of the UNet (LoCon); 0: none'),
    rankPattern: patterns.default({}).describe('Other ranks for layers whose name contains the key'),
    alphaPattern: patterns.default({}).describe('Other alphas for layers whose name contains the key'),
    rankDropout: share.default(0).describe('Chance that a step leaves out each rank of each layer'),
    moduleDropout: share.default(0).describe('Chance that a step leaves out a layer’s factors'),
    kvDrop: share.default(0).describe('The same for K and V of cross-attention alone'),

    resolution: z
      .number()
      .int()
      .min(8)
      .optional()
      .describe('Pixels of the side of a square picture; default: what the base was trained at'),
    buckets: z.boolean().default(false).describe('Keep aspect ratios: sizes of about resolution² pixels'),
    flip: z.boolean().default(false).describe('Also use pictures mirrored'),
    crops: count.default(1).describe('Random crops a picture, where it is not square'),
    shifts: countOrNone
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

    prompt: z.string().default('').describe('Caption for pictures without one; <TOK> stands for the words'),
    captions: z
      .enum(['auto', 'file-name', 'prompt'])
      .default('auto')
      .describe('auto: .txt, .json(l); file-name: the name; prompt: --prompt for all'),
    captionFolder: z.string().default('').describe('Folder of caption files; default: beside the pictures'),
    templates: z
      .enum(['none', 'object', 'style'])
      .default('none')
      .describe('Put each caption into a random prompt template, instead of as it is'),
    shuffleCaptions: z.boolean().default(false).describe('Shuffle the parts of a caption between commas'),
    keepParts: countOrNone.default(1).describe('Leading parts that keep their place'),
    captionDropout: share.default(0).describe('Chance of an empty caption'),
    captionsPerBatch: countOrNone
      .default(0)
      .describe(
        'Pictures of a batch share so many captions: less work for the text encoder; 0: each its own',
      ),

    masks: z
      .string()
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
    attentionWeight: amount.default(0).describe('Attention regularisation; needs two words and masks'),
    fullIdentity: z
      .boolean()
      .default(true)
      .describe('The second word’s map must fill the mask, not only stay inside'),
    normStop: amount.default(0.55).describe('Embeddings stop once their mean norm reaches it; 0: never'),

    vectors: count.default(1).describe('Textual Inversion: vectors per word'),
    progressive: z.boolean().default(false).describe('Textual Inversion: add one vector after the other'),
    perImageTokens: z
      .boolean()
      .default(false)
      .describe('Textual Inversion: one more word per picture, dropped at the end'),
    classWeight: amount.default(0).describe('Pull embeddings towards where they started'),
    kdeWeight: amount.default(0).describe('XTI: pull embeddings to where words lie, by kernel density'),
    kdeBandwidth: z.number().positive().default(0.5).describe('Width of that kernel'),

    priorWeight: amount.optional().describe('Weight of class pictures in the loss'),
    classData: z
      .string()
      .default('')
      .describe('Folder of class pictures; missing ones are drawn by the base'),
    classPrompt: z
      .string()
      .default('')
      .describe('Caption of class pictures, and the prompt to draw them with'),
    classImages: count.default(100).describe('Class pictures there shall be'),

    saveEvery: countOrNone.default(100).describe('Steps between two saves of the state; 0: at the end only'),
    sampleEvery: countOrNone.default(0).describe('Steps between two sample pictures; 0: none'),
    samplePrompt: z.string().default('photo of a <TOK>').describe('What they show'),
    format: z
      .enum(['auto', 'kohya', 'diffusers', 'peft', 'edlora'])
      .default('auto')
      .describe('Names in the file; auto: edlora where there are words, else kohya'),
    dtype: z.enum(['F32', 'F16', 'BF16']).default('F32').describe('Of the numbers in the file'),
  })
  .describe('Settings of `edlora train`');

/** As written in a file or on the command line. */
export type TrainingInput = z.input<typeof trainingSchema>;
export type TrainingSettings = z.output<typeof trainingSchema>;

/** The published schema of `--config` files, docs/train.schema.json. */
export function trainingJsonSchema(): Record<string, unknown> {
  return z.toJSONSchema(trainingSchema, { io: 'input' }) as Record<string, unknown>;
}
