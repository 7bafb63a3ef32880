import { describe, expect, it } from 'vitest';
import type { Concept } from '../../src/concepts/concept.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { bindConcepts, renameTokens } from '../../src/concepts/prompt.ts';
import { MismatchError, UsageError } from '../../src/errors.ts';
import { loadTokenizer } from '../../src/models/clip/tokenizer.ts';
import { goldenPath } from '../support/goldens.ts';
import { tokenOf } from '../support/tokens.ts';
import { tensor } from './support.ts';

const tokenizer = await loadTokenizer(goldenPath('goldens/tokenizer/tiny'));

function concept(file: string, words: Record<string, [layers: number, width: number]>): Concept {
  return {
    path: file,
    format: 'ed-lora',
    tokens: Object.entries(words).map(([word, shape]) => tokenOf(word, tensor(word, shape))),
    layers: new Map(),
    metadata: new Map(),
  };
}

describe('bindConcepts', () => {
  it('replaces each word by its layer tokens, in any case, the longest word first', () => {
    const bound = bindConcepts(tokenizer, [concept('a', { '<a>': [2, 3], '<a>2': [2, 3] })]);
    expect(bound.layerPrompts('x <A> <a>2 y')).toEqual(['x <new0> <new2> y', 'x <new1> <new3> y']);
    expect(bound.tokens.map(({ ids }) => ids)).toEqual([
      [tokenizer.vocabSize, tokenizer.vocabSize + 1],
      [tokenizer.vocabSize + 2, tokenizer.vocabSize + 3],
    ]);
    expect(bound.encode('<a>', { pad: false })).toEqual(
      [0, 1].map((layer) => [tokenizer.bosId, tokenizer.vocabSize + layer, tokenizer.eosId]),
    );
    for (const row of bound.encode('<a>', { pad: true })) expect(row).toHaveLength(77);
  });

  it('uses a single row in every layer', () => {
    const bound = bindConcepts(tokenizer, [concept('a', { '<a>': [1, 2] }), concept('b', { '<b>': [3, 2] })]);
    expect(bound.layerCount).toBe(3);
    expect([...bound.embeddingRows('text_encoder')]).toEqual([1, 2, 1, 2, 1, 2, 1, 2, 3, 4, 5, 6]);
  });

  it('binds nothing for plain LoRA files', () => {
    const bound = bindConcepts(tokenizer, [concept('a', {})]);
    expect(new Set(bound.layerPrompts('a photo'))).toEqual(new Set(['a photo']));
    expect(bound.layerCount).toBe(16);
    expect(bound.embeddingRows('text_encoder')).toHaveLength(0);
    expect(bound.conceptConfig()).toEqual({});
  });

  it('continues the numbers of an earlier fusion', () => {
    const fused = tokenizer.withAddedTokens(['<new0>', '<new7>']);
    const bound = bindConcepts(fused, [concept('a', { '<a>': [2, 3] })]);
    expect(bound.tokens[0]!.names).toEqual(['<new8>', '<new9>']);
  });

  it('refuses the same word in two files, naming both', () => {
    const bind = () =>
      bindConcepts(tokenizer, [concept('one.pth', { '<a>': [2, 3] }), concept('two.pth', { '<A>': [2, 3] })]);
    expect(bind).toThrow(UsageError);
    expect(bind).toThrow(/two\.pth: the word <A> is also in one\.pth; .*`renameTokens: /);
  });

  it('refuses words of the vocabulary, layers and widths that do not fit', () => {
    expect(() => bindConcepts(tokenizer, [concept('a', { photo: [2, 3] })])).toThrow(
      /vocabulary; .*`renameTokens: /,
    );
    expect(() => bindConcepts(tokenizer, [concept('a', { 'two words': [2, 3] })])).toThrow(UsageError);
    expect(() => bindConcepts(tokenizer, [concept('a', { '<a>': [2, 3], '<b>': [2, 4] })])).toThrow(
      MismatchError,
    );
    expect(() => bindConcepts(tokenizer, [concept('a', { '<a>': [2, 3] })], 16)).toThrow(
      /expected 16 layers, got 2/,
    );
  });
});

describe('renameTokens', () => {
  const two = concept('a.pth', { '<a>': [2, 3], '<b>': [2, 3] });
  it('renames and keeps order', () => {
    expect(renameTokens(two, new Map([['<a>', '<c>']])).tokens.map(({ word }) => word)).toEqual([
      '<c>',
      '<b>',
    ]);
    expect(two.tokens[0]!.word).toBe('<a>');
  });
  it('refuses unknown and colliding words', () => {
    expect(() => renameTokens(two, new Map([['<x>', '<y>']]))).toThrow(/its words are: <a>, <b>/);
    expect(() => renameTokens(two, new Map([['<a>', '<B>']]))).toThrow(/two words would become <b>/);
  });
});

describe('a loaded file', () => {
  it('binds', async () => {
    const loaded = await loadConcept(goldenPath('goldens/tiny-random/edlora.pth'));
    const bound = bindConcepts(tokenizer, [loaded]);
    expect(bound.embeddingRows('text_encoder').length % (bound.tokens.length * bound.layerCount)).toBe(0);
  });
});
