import { describe, expect, it } from 'vitest';
import { takeLoraTags } from '../../src/sampling/lora-tags.ts';

describe('a tag', () => {
  it.each([
    ['<lora:style>', 'style', 1, 1],
    ['<lora:style:0.8>', 'style', 0.8, 0.8],
    ['<LoRA:dir/style.safetensors:-.5>', 'dir/style.safetensors', -0.5, -0.5],
    ['<lora:style:0.2:0.9>', 'style', 0.2, 0.9],
    ['<lora:C:\\loras\\style.pt:2>', 'C:\\loras\\style.pt', 2, 2],
  ])('%s names a file and its strengths', (tag, name, textEncoderStrength, unetStrength) => {
    const { prompt, tags } = takeLoraTags(`a cat ${tag} on grass`);
    expect(prompt).toBe('a cat on grass');
    expect(tags).toEqual([{ name, textEncoderStrength, unetStrength }]);
  });

  it('stands anywhere and several times; a prompt without one stays as it is', () => {
    expect(takeLoraTags('<lora:a:0.5><lora:b>a  cat')).toMatchObject({
      prompt: 'a cat',
      tags: [{ name: 'a' }, { name: 'b' }],
    });
    expect(takeLoraTags('a  <smiley1> cat ')).toEqual({ prompt: 'a  <smiley1> cat ', tags: [] });
  });

  it.each([
    ['<lora:>', 'got no file'],
    ['<lora: :0.5>', 'got no file'],
    ['<lora:a:high>', 'got a strength of "high"'],
    ['<lora:a:>', 'got a strength of ""'],
    ['<lora:a:1:2:3>', 'got 3 strengths'],
  ])('%s is refused', (tag, message) => {
    expect(() => takeLoraTags(tag)).toThrow(message);
  });
});
