/** What prompts call a LoRA without words, by its header. */
import { describe, expect, it } from 'vitest';
import { triggerPhrase } from '../../src/concepts/trigger-phrase.ts';

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
    [
      'its folder’s name where captions are sentences',
      {
        ss_tag_frequency: {
          '10_sks toy': { 'a sks toy on grass': 2, 'photo of a SKS toy': 2, 'sks toys': 3, grass: 2 },
        },
      },
      'sks toy',
    ],
    [
      'a tag that is as frequent as its folder’s name',
      { ss_tag_frequency: { '10_toy': { 'sks toy': 4 } } },
      'sks toy',
    ],
    ['no folder without repeats', { ss_tag_frequency: { toy: { 'a toy': 1, 'the toy': 1 } } }, 'a toy'],
    ['in one line', { 'modelspec.trigger_phrase': 'sks\n  toy' }, 'sks toy'],
    [
      'never longer than a prompt can hold',
      {
        'modelspec.trigger_phrase': 'toy '.repeat(26),
        ss_tag_frequency: { '1_b': { [`${'c'.repeat(101)}`]: 9, b: 1 } },
      },
      'b',
    ],
    [
      'never what steers a terminal',
      {
        'modelspec.trigger_phrase': 'toy\u001b[2J',
        ss_tag_frequency: { '5_to\u202ey': { 'to\u202ey': 9, 'sks toy': 1 } },
      },
      'sks toy',
    ],
  ])('is %s', (_, entries, expected) => expect(named(entries)).toBe(expected));
});
