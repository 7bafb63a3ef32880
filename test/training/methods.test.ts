/** What each method takes and refuses, and that its rates and ranks are those of its source. */
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import type { TrainingInput } from '../../src/training/options.ts';
import { trainingSettings } from '../../src/training/prepared-run.ts';

const settingsOf = (given: Partial<TrainingInput>) =>
  trainingSettings({ data: 'pictures', ...given }).settings;
const WORD = { token: '<a>', init: 'cat' };

describe('defaults', () => {
  it.each<[TrainingInput['method'], Record<string, number>]>([
    // Mix-of-Show, options/train/EDLoRA: rank 4, alpha 1.0, rates 1e-3, 1e-5, 1e-4, noise_offset 0.01.
    ['ed-lora', { rank: 4, alpha: 1, lrEmbedding: 1e-3, lrText: 1e-5, lrUnet: 1e-4, noiseOffset: 0.01 }],
    ['textual-inversion', { lrEmbedding: 5e-3, lrText: 0, lrUnet: 0, noiseOffset: 0, priorWeight: 0 }],
    ['xti', { lrEmbedding: 5e-3, lrText: 0, lrUnet: 0, noiseOffset: 0, priorWeight: 0 }],
    // diffusers, train_text_to_image_lora.py: rank 4, 1e-4.
    ['lora', { rank: 4, alpha: 4, lrUnet: 1e-4, noiseOffset: 0, priorWeight: 0 }],
    // Custom Diffusion, diffusers_training.py: 1e-5 for all, prior_loss_weight 1.0.
    ['custom-diffusion', { lrEmbedding: 1e-5, lrText: 0, lrUnet: 1e-5, priorWeight: 1, rank: 64, alpha: 1 }],
    ['dreambooth-lora', { priorWeight: 1 }],
  ])('of %s', (method, expected) => {
    expect(settingsOf({ method, ...WORD, classPrompt: expected.priorWeight ? 'a cat' : '' })).toMatchObject(
      expected,
    );
  });

  it('give way to what is said, be it 0', () => {
    expect(settingsOf({ method: 'ed-lora', ...WORD, lrText: 0, rank: 8 })).toMatchObject({
      lrText: 0,
      rank: 8,
      lrUnet: 1e-4,
    });
  });
});

describe('a method', () => {
  const [words, classes] = [WORD, { classPrompt: 'a cat' }];
  it.each<[Partial<TrainingInput>, string | null]>([
    [{ method: 'lora' }, null],
    [{ method: 'ed-lora' }, 'token'],
    [{ method: 'textual-inversion' }, 'token'],
    [{ method: 'textual-inversion', ...words, vectors: 4, progressive: true, perImageTokens: true }, null],
    [{ method: 'textual-inversion', ...words, convRank: 1 }, 'convRank'],
    [{ method: 'textual-inversion', ...words, rankDropout: 0.1 }, 'rankDropout'],
    [{ method: 'xti', ...words, moduleDropout: 0.1 }, 'moduleDropout'],
    [{ method: 'xti', ...words, factors: 'loha' }, 'factors'],
    [{ method: 'xti', ...words, kvDrop: 0.1 }, 'kvDrop'],
    [
      { method: 'lora', convRank: 1, rankDropout: 0.1, moduleDropout: 0.1, kvDrop: 0.1, factors: 'loha' },
      null,
    ],
    [{ method: 'xti', ...words, vectors: 2 }, 'vectors'],
    [{ method: 'ed-lora', ...words, vectors: 1 }, null],
    [{ method: 'ed-lora', ...words, progressive: true }, 'progressive'],
    [{ method: 'lora', ...words, perImageTokens: true }, 'perImageTokens'],
    [{ method: 'lora', classWeight: 0.1 }, 'classWeight'],
    [{ method: 'lora', kdeWeight: 0.1 }, 'kdeWeight'],
    [{ method: 'lora', ...words, classWeight: 0.1, kdeWeight: 0.1 }, null],
    [{ method: 'lora', ...classes }, 'class pictures'],
    [{ method: 'lora', classData: 'cats' }, 'class pictures'],
    [{ method: 'dreambooth-lora', ...classes }, null],
    [{ method: 'dreambooth-lora', ...classes, buckets: true }, 'buckets'],
    [{ method: 'lora', buckets: true }, null],
    [{ method: 'dreambooth-lora' }, 'classPrompt'],
    [{ method: 'dreambooth-lora', priorWeight: 0 }, null],
    [{ method: 'custom-diffusion', ...words }, 'classPrompt'],
    [{ method: 'ed-lora', token: '<a>+<b>', init: 'x+y', attentionWeight: 0.1 }, null],
    [{ method: 'ed-lora', ...words, attentionWeight: 0.1 }, 'attentionWeight'],
    [{ method: 'ed-lora', token: '<a>+<b>+<c>', init: 'x+y+z', attentionWeight: 0.1 }, 'attentionWeight'],
    [{ method: 'ed-lora', token: '<a>+<b>+<c>', init: 'x+y+z' }, null],
  ])('with %j refuses: %s', (given, setting) => {
    if (setting === null) expect(() => settingsOf(given)).not.toThrow();
    else {
      expect(() => settingsOf(given)).toThrow(UsageError);
      expect(() => settingsOf(given)).toThrow(new RegExp(`^${setting}: `));
    }
  });
});
