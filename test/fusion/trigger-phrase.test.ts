/** What prompts call a LoRA without words, by its header. */
import { describe, expect, it } from 'vitest';
import { triggerPhrase } from '../../src/fusion/trigger-phrase.ts';

const named = (entries: Record<string, unknown>) =>
  triggerPhrase({
    path: '/loras/my_toy-v2.safetensors',
    metadata: new Map(
      Object.entries(entries).map(([key, value]) => [
        key,
        typeof value === 'string' ? value : JSON.stringify(value),
      ]),
    ),
  }).name;

describe('the name of a LoRA without words', () => {
  it.each([
    [
      'its trigger phrase',
      { 'modelspec.trigger_phrase': ' sks toy ', ss_tag_frequency: { a: { b: 3 } } },
      'sks toy',
    ],
    ['its most frequent tag', { ss_tag_frequency: { '10_toy': { grass: 3, 'sks toy': 9 } } }, 'sks toy'],
    [
      'its most frequent tag over all folders',
      { ss_tag_frequency: { one: { grass: 5, toy: 4 }, two: { ' toy': 2 } } },
      'toy',
    ],
    ['the first of several tags', { ss_tag_frequency: { one: { toy: 4, grass: 4 } } }, 'toy'],
    ['its file’s name', {}, 'my toy v2'],
    ['its file’s name where tags are cut off', { ss_tag_frequency: '{"one": {"toy' }, 'my toy v2'],
    [
      'its file’s name where there are no counts',
      { ss_tag_frequency: { one: 7, two: { '': 4, x: 'y' } } },
      'my toy v2',
    ],
    ['its file’s name where the phrase is empty', { 'modelspec.trigger_phrase': ' ' }, 'my toy v2'],
  ])('is %s', (_, entries, expected) => expect(named(entries)).toBe(expected));
});
