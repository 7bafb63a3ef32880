import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { FormatError, UsageError } from '../../src/errors.ts';
import { bytePairEncode, bytePairVocabulary } from '../../src/models/clip/bpe.ts';
import { loadTokenizer } from '../../src/models/clip/tokenizer.ts';
import { goldenPath } from '../support/goldens.ts';

const tiny = goldenPath('goldens/tokenizer/tiny');
const scratch = mkdtempSync(path.join(os.tmpdir(), 'edlora-tokenizer-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A copy of the miniature tokenizer with some files replaced (`null` removes one). */
function variant(files: Record<string, string | null>): string {
  const folder = mkdtempSync(path.join(scratch, 'v-'));
  cpSync(tiny, folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) {
    if (text === null) rmSync(path.join(folder, name));
    else writeFileSync(path.join(folder, name), text);
  }
  return folder;
}

const vocabulary = JSON.parse(readFileSync(path.join(tiny, 'vocab.json'), 'utf8')) as Record<string, number>;
const merges = readFileSync(path.join(tiny, 'merges.txt'), 'utf8');
const base = await loadTokenizer(tiny);

describe('ClipTokenizer', () => {
  it('numbers added words from the end of the vocabulary and leaves the original alone', () => {
    const more = base.withAddedTokens(['<a1>', '<a2>']);
    expect(more.tokenId('<a1>')).toBe(base.vocabSize);
    expect(more.tokenId('<a2>')).toBe(base.vocabSize + 1);
    expect(more.vocabSize).toBe(base.vocabSize + 2);
    expect(base.tokenId('<a1>')).toBeUndefined();
    expect(more.encode('x<A1>y')).toEqual([
      base.bosId,
      ...base.encode('x').slice(1, -1),
      base.vocabSize,
      ...base.encode('y').slice(1, -1),
      base.eosId,
    ]);
  });

  it.each([
    ['', /without white space/],
    ['two words', /without white space/],
    ['photo', /already in the vocabulary/],
    ['<|endoftext|>', /already in the vocabulary/],
  ])('refuses %j as a new word', (word, message) => {
    expect(() => base.withAddedTokens([word])).toThrow(UsageError);
    expect(() => base.withAddedTokens([word])).toThrow(message);
  });

  it('refuses words that differ in case only, and the same word twice', () => {
    expect(() => base.withAddedTokens(['<Cat1>', '<cat1>'])).toThrow(/cannot be told from "<Cat1>"/);
    expect(() => base.withAddedTokens(['<cat1>']).withAddedTokens(['<cat1>'])).toThrow(UsageError);
  });

  it('matches the longest added word, and words with pattern characters literally', () => {
    const tokenizer = base.withAddedTokens(['<new1>', '<new1>0', '(a|b)*', '$1']);
    const id = (word: string) => tokenizer.tokenId(word);
    expect(tokenizer.encode('<new1>0').slice(1, -1)).toEqual([id('<new1>0')]);
    expect(tokenizer.encode('(a|b)* $1').slice(1, -1)).toEqual([id('(a|b)*'), id('$1')]);
  });

  it('pads and cuts to any length', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 60 }), fc.integer({ min: 2, max: 40 }), (text, length) => {
        const { ids, attentionLength } = base.encodePadded(text, length);
        const whole = base.encode(text);
        expect(ids).toHaveLength(length);
        expect(attentionLength).toBe(Math.min(whole.length, length));
        expect(ids[attentionLength - 1]).toBe(base.eosId);
        expect(ids.slice(0, attentionLength - 1)).toEqual(whole.slice(0, attentionLength - 1));
        expect(ids.slice(attentionLength).every((id) => id === base.padId)).toBe(true);
      }),
    );
    expect(() => base.encodePadded('a', 1)).toThrow(UsageError);
  });

  it('decodes what it encoded, up to case and blanks', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 40 }), (text) => {
        const plain = (value: string) => value.normalize('NFC').replace(/[\p{White_Space}\uFFFD]/gu, '');
        let lower = '';
        for (const char of plain(text)) lower += char.toLowerCase();
        const ids = base.encode(text);
        fc.pre(!text.includes('<|'));
        expect(plain(base.decode(ids))).toBe(plain(lower));
      }),
    );
  });

  it('names the range when asked to decode an unknown id', () => {
    expect(() => base.decode([base.vocabSize])).toThrow(/expected 0 …/);
  });

  it('does not slow down quadratically on one long word', () => {
    expect(base.encode('th'.repeat(200_000)).length).toBeGreaterThan(100);
    let word = '';
    for (let i = 0; word.length < 100_000; i++) word += `tha${'e'.repeat(i % 7)}n`;
    const start = performance.now();
    base.encode(word);
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it('does not slow down quadratically on marks that have to be sorted', () => {
    const start = performance.now();
    base.encode(`a${'\u0301\u0327'.repeat(60_000)}`);
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it('refuses a text that nobody wrote', () => {
    expect(() => base.encode('a'.repeat(1e6))).toThrow(/at most 524288 characters, got 1000000/);
  });
});

describe('bytePairEncode', () => {
  it('merges one pair at a time, the lowest rank first and the leftmost among equals', () => {
    /** By its definition. */
    const plainly = (ranks: ReadonlyMap<string, ReadonlyMap<string, number>>, word: string): string[] => {
      const symbols = [...word].map((char, i) => (i + 1 < word.length ? char : `${char}</w>`));
      for (;;) {
        let best = Number.POSITIVE_INFINITY;
        let at = -1;
        symbols.slice(1).forEach((second, i) => {
          const rank = ranks.get(symbols[i]!)?.get(second);
          if (rank !== undefined && rank < best) [best, at] = [rank, i];
        });
        if (at < 0) return symbols;
        symbols.splice(at, 2, symbols[at]! + symbols[at + 1]!);
      }
    };
    const order = fc.array(fc.tuple(fc.nat(), fc.nat()), { minLength: 1, maxLength: 25 });
    fc.assert(
      fc.property(order, fc.stringMatching(/^[ab]{1,30}$/), (choices, word) => {
        const tokens = ['a', 'b', 'a</w>', 'b</w>'];
        const pairs: [string, string][] = [];
        for (const [i, j] of choices) {
          const [first, second] = [tokens[i % tokens.length]!, tokens[j % tokens.length]!];
          if (first.endsWith('</w>') || tokens.includes(first + second)) continue;
          tokens.push(first + second);
          pairs.push([first, second]);
        }
        const ids = new Map(tokens.map((token, id) => [token, id]));
        const vocabulary = bytePairVocabulary('test', ids, pairs);
        expect(bytePairEncode(vocabulary, word)).toEqual(plainly(vocabulary.ranks, word));
      }),
    );
  });

  it('stops a pass when a merge makes a better pair', () => {
    // Rank 0 needs what rank 1 makes: "abab" → ab|a|b → (ab a) at once, before the second ab.
    const tokens = ['a', 'b', 'b</w>', 'ab', 'aba', 'ab</w>'];
    const ids = new Map(tokens.map((token, id) => [token, id]));
    const pairs: [string, string][] = [
      ['ab', 'a'],
      ['a', 'b'],
    ];
    expect(bytePairEncode(bytePairVocabulary('test', ids, pairs), 'ababb')).toEqual(['aba', 'b', 'b</w>']);
  });
});

describe('loadTokenizer', () => {
  it('accepts the model folder around tokenizer/', async () => {
    const tokenizer = await loadTokenizer(goldenPath('goldens/tiny-random/model'));
    expect(tokenizer.vocabSize).toBeGreaterThan(512);
  });

  it('reads the same from tokenizer.json', async () => {
    const added = ['<|startoftext|>', '<|endoftext|>'].map((content) => ({
      id: vocabulary[content],
      content,
      special: true,
      normalized: false,
    }));
    const listed = merges.trim().split('\n').slice(1);
    for (const lines of [listed, listed.map((line) => line.split(' '))]) {
      const folder = variant({
        'vocab.json': null,
        'merges.txt': null,
        'tokenizer.json': JSON.stringify({
          added_tokens: [...added, { id: base.vocabSize, content: '<kept1>', special: false }],
          model: { type: 'BPE', vocab: vocabulary, merges: lines, end_of_word_suffix: '</w>' },
        }),
      });
      const tokenizer = await loadTokenizer(folder);
      expect(tokenizer.encode('a photo of the red square')).toEqual(base.encode('a photo of the red square'));
      expect(tokenizer.tokenId('<kept1>')).toBe(base.vocabSize);
    }
  });

  it('reads words that an earlier run added', async () => {
    const map = variant({ 'added_tokens.json': JSON.stringify({ '<new0>': base.vocabSize }) });
    expect((await loadTokenizer(map)).encode('<NEW0>')).toEqual([base.bosId, base.vocabSize, base.eosId]);
    const decoder = { [base.vocabSize]: { content: '<new0>', normalized: false, special: false } };
    const config = variant({ 'tokenizer_config.json': JSON.stringify({ added_tokens_decoder: decoder }) });
    const tokenizer = await loadTokenizer(config);
    expect(tokenizer.encode('<new0>')).toEqual([base.bosId, base.vocabSize, base.eosId]);
    expect(tokenizer.encode('<NEW0>')).not.toContain(base.vocabSize);
  });

  it('takes the padding token from the configuration', async () => {
    const folder = variant({
      'tokenizer_config.json': '{}',
      'special_tokens_map.json': JSON.stringify({ pad_token: '!' }),
    });
    expect((await loadTokenizer(folder)).padId).toBe(vocabulary['!']);
  });

  const twoOfOne = { ...vocabulary, extra: 5 };
  const hole = { ...vocabulary, extra: base.vocabSize + 1 };
  it.each<[string, Record<string, string | null>, RegExp]>([
    ['no merges', { 'merges.txt': null }, /missing/],
    ['neither', { 'vocab.json': null, 'merges.txt': null }, /`configFolder`/],
    ['cut JSON', { 'vocab.json': '{"a": 1' }, /expected JSON/],
    ['a web page', { 'vocab.json': '<!doctype html>' }, /expected JSON/],
    ['a list', { 'vocab.json': '[]' }, /JSON object/],
    ['nothing in it', { 'vocab.json': '{}' }, /empty object/],
    ['an id that is text', { 'vocab.json': '{"a": "1"}' }, /whole number/],
    ['a negative id', { 'vocab.json': '{"a": -1}' }, /whole number/],
    ['an id twice', { 'vocab.json': JSON.stringify(twoOfOne) }, /id 5 is given to both/],
    ['a hole', { 'vocab.json': JSON.stringify(hole) }, /incomplete/],
    ['no specials', { 'vocab.json': '{"a": 0}', 'merges.txt': '' }, /not a CLIP tokenizer/],
    ['three symbols', { 'merges.txt': `${merges}a b c\n` }, /two symbols/],
    ['an empty line', { 'merges.txt': `\n${merges}` }, /line 1: expected two symbols/],
    ['an unknown symbol', { 'merges.txt': `${merges}quite unlikely\n` }, /not in the vocabulary/],
    ['a merge twice', { 'merges.txt': `${merges}t h\n` }, /listed twice/],
    ['a bad special', { 'tokenizer_config.json': '{"bos_token": 3}' }, /bos_token/],
    [
      'single words',
      { 'tokenizer_config.json': '{"added_tokens_decoder": {"604": {"content": "x", "single_word": true}}}' },
      /single_word/,
    ],
    ['two ids for a word', { 'added_tokens.json': '{"<|endoftext|>": 604}' }, /two ids/],
    ['an added id in use', { 'added_tokens.json': '{"<new0>": 3}' }, /id 3 is given to both/],
  ])('refuses %s', async (_, files, message) => {
    const loading = loadTokenizer(variant(files));
    await expect(loading).rejects.toThrow(FormatError);
    await expect(loading).rejects.toThrow(message);
  });

  it('refuses another kind of tokenizer.json', async () => {
    const folder = variant({
      'vocab.json': null,
      'merges.txt': null,
      'tokenizer.json': '{"model": {"type": "WordPiece", "vocab": {}}}',
    });
    await expect(loadTokenizer(folder)).rejects.toThrow(/byte-pair encoding/);
  });

  it('says what to provide for a single-file checkpoint', async () => {
    const loading = loadTokenizer(goldenPath('goldens/tiny-random/single_file.safetensors'));
    await expect(loading).rejects.toThrow(UsageError);
    await expect(loading).rejects.toThrow(/`configFolder`/);
    await expect(loadTokenizer(path.join(scratch, 'nowhere'))).rejects.toThrow(/no such tokenizer folder/);
  });
});
