/** Which rows of a concept's prompts K and V are fused on, by the published rule: ids from the end of text upwards. */
import { beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { type BoundVocabulary, bindConcepts } from '../../src/concepts/prompt.ts';
import { conceptPrompts } from '../../src/fusion/prompts.ts';
import { loadTokenizer } from '../../src/models/clip/tokenizer.ts';
import type { PromptIds } from '../../src/models/families/prompt-ids.ts';
import { goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/fusion';
const TEMPLATES = ['photo of a {}', '{}'];

let vocabulary: BoundVocabulary;
let wordless: BoundVocabulary;
beforeAll(async () => {
  const tokenizer = await loadTokenizer(goldenPath(FOLDER, 'base_model'));
  vocabulary = bindConcepts(tokenizer, [await loadConcept(goldenPath(FOLDER, 'concepts', 'maple.pth'))]);
  wordless = bindConcepts(tokenizer, []);
});

/** Rows of every prompt, and what the published rule takes. */
function rows(bound: BoundVocabulary, name: string, templates: readonly string[] = TEMPLATES) {
  const { ids, conceptRows } = conceptPrompts(bound, name, templates);
  const prompts = ids.flat();
  const published = ([list]: PromptIds) =>
    [...list!.keys()].filter((row) => list![row]! >= bound.tokenizer.eosId);
  return { prompts, found: prompts.map(conceptRows), published: prompts.map(published) };
}

describe('rows of a concept', () => {
  it.each([
    ['its words', '<maple1> <maple2>'],
    ['an ordinary word behind them', '<maple1> <maple2> lamp'],
    ['ordinary words around and between them', 'red <maple1> old <maple2> lamp'],
    ['one of its words', 'a <maple1> lamp'],
    ['a word twice', '<maple1> and <MAPLE1>'],
  ])('called by %s are its layer tokens and the end of text', (_, name) => {
    const { prompts, found, published } = rows(vocabulary, name);
    expect(prompts).toHaveLength(2 * 16);
    expect(found).toEqual(published);
    const words = name.match(/<maple\d>/gi)!.length;
    for (const list of found) expect(list).toHaveLength(words + 1);
  });

  it('are those of a name with signs that patterns know', () => {
    const { ids } = conceptPrompts(wordless, "toy $& $'", ['a {} b']);
    expect(ids[0]![0]).toEqual(wordless.promptIds("a toy $& $' b", { pad: false })[0]);
  });

  it('are found where a template says the words once more', () => {
    const { found, published } = rows(vocabulary, '<maple1> lamp', ['{} beside <maple2>']);
    expect(found).toEqual(published);
    expect(found[0]).toHaveLength(3);
  });

  it('are those of the whole name where it has no layer token', () => {
    const { prompts, found } = rows(wordless, 'red lamp', ['a {}', '{}']);
    const named = wordless.tokenizer.encode('red lamp').length - 2;
    for (const [p, list] of found.entries()) {
      const end = prompts[p]![0]!.length - 1;
      expect(list).toEqual(Array.from({ length: named + 1 }, (_, k) => end - named + k));
    }
  });
});
