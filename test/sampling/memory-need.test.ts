import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/errors.ts';
import { SD15_UNET, SD15_VAE } from '../../src/models/families/sd1-configs.ts';
import { checkMemory, type DrawingSize, memoryNeed } from '../../src/sampling/memory-need.ts';

const size: DrawingSize = {
  width: 512,
  height: 512,
  factor: 8,
  rows: 2,
  tokens: 154,
  masks: 0,
  unet: SD15_UNET,
  vae: SD15_VAE,
};

describe('the memory that a scene needs', () => {
  it('is counted low: a common picture needs less than it was measured to take', () => {
    expect(memoryNeed(size)).toBeGreaterThan(1e8);
    expect(memoryNeed(size)).toBeLessThan(1e9);
  });

  it('grows with pictures, texts and masks', () => {
    const need = memoryNeed(size);
    for (const more of [
      { rows: 128 },
      { tokens: 77 * 400 },
      { masks: 1000 },
      { width: 2048, height: 2048 },
    ]) {
      expect(memoryNeed({ ...size, ...more })).toBeGreaterThan(1.5 * need);
    }
  });

  it('is refused beyond a limit, with both numbers', () => {
    expect(() => checkMemory(size, 1e9)).not.toThrow();
    const check = () => checkMemory({ ...size, rows: 128 }, 8e9);
    expect(check).toThrow(UsageError);
    expect(check).toThrow(/at most 8\.0 GB of memory.*a need of \d+\.\d GB or more/);
  });
});
