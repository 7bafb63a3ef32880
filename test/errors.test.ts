import { describe, expect, it } from 'vitest';
import { EdloraError, FormatError, MismatchError, NumericalError, UsageError } from '../src/errors.ts';

describe('messages', () => {
  const name = 'n'.repeat(16e6);

  it.each([
    new FormatError('model.safetensors', `tensor "${name}": expected F32, got "${name}"; hint`, {
      tensor: name,
    }),
    new UsageError(`out: expected a word, got ${name}; hint`),
    new MismatchError(`${name}: expected one, got two; hint`),
    new NumericalError('got NaN; hint', { layer: name }),
    new EdloraError(`${name}; hint`),
  ])('of any class keep beginning and end, whatever a file called its tensors', (error) => {
    expect(error.message.length).toBeLessThan(4100);
    expect(error.message).toMatch(/^(model|out|nnn).*\(\d{7,8} characters\).*; hint$/);
  });

  it('of ordinary length stay as they are, and characters stay whole', () => {
    expect(new UsageError('a'.repeat(4000)).message).toBe('a'.repeat(4000));
    const { message } = new UsageError(`${'😀'.repeat(5000)}x`);
    expect(message).not.toMatch(/\p{Surrogate}/u);
    expect(new UsageError('😀'.repeat(5000)).message).not.toMatch(/\p{Surrogate}/u);
  });
});
