import { describe, expect, it } from 'vitest';
import { type ClipTokenizer, loadTokenizer } from '../../src/models/clip/tokenizer.ts';
import { goldenJson, goldenPath, hasGolden } from '../support/goldens.ts';

interface Prompt {
  text: string;
  input_ids: number[];
  attention_mask_sum: number;
  untruncated_ids: number[];
  tokens: string[];
  decoded_skip_special: string;
}

interface PromptFile {
  tokenizer: string;
  base_vocab_size: number;
  model_max_length: number;
  bos_token_id: number;
  eos_token_id: number;
  pad_token_id: number;
  added_tokens: Record<string, number>;
  prompts: Prompt[];
}

async function check(file: PromptFile, folder: string): Promise<void> {
  const base = await loadTokenizer(folder);
  expect(base.vocabSize).toBe(file.base_vocab_size);
  expect([base.bosId, base.eosId, base.padId]).toEqual([
    file.bos_token_id,
    file.eos_token_id,
    file.pad_token_id,
  ]);
  const words = Object.entries(file.added_tokens).sort((a, b) => a[1] - b[1]);
  const tokenizer: ClipTokenizer = base.withAddedTokens(words.map(([word]) => word));
  for (const [word, id] of words) expect(tokenizer.tokenId(word)).toBe(id);
  expect(file.prompts.length).toBeGreaterThan(0);
  for (const prompt of file.prompts) {
    const ids = tokenizer.encode(prompt.text);
    expect(ids, JSON.stringify(prompt.text)).toEqual(prompt.untruncated_ids);
    const padded = tokenizer.encodePadded(prompt.text, file.model_max_length);
    expect(padded.attentionLength).toBe(prompt.attention_mask_sum);
    expect(padded.ids).toEqual(prompt.input_ids);
    // The list of token texts is a beginning of the untruncated ids.
    expect(prompt.tokens.length).toBeGreaterThanOrEqual(Math.min(ids.length, file.model_max_length));
    expect(ids.slice(0, prompt.tokens.length).map((id) => tokenizer.token(id))).toEqual(prompt.tokens);
    expect(tokenizer.decode(ids), JSON.stringify(prompt.text)).toBe(prompt.decoded_skip_special);
  }
}

describe('CLIP tokenizer, goldens', () => {
  it('gives the ids, tokens, padding and text of the Python library on the miniature vocabulary', async () => {
    const file = goldenJson<PromptFile>('goldens/tokenizer/prompts.json');
    await check(file, goldenPath('goldens/tokenizer', file.tokenizer));
  });

  // OpenAI's vocabulary is not ours to ship: put vocab.json and merges.txt there to run this one.
  const vocabularies = ['clip_real', 'clip-vocab'].filter((name) => hasGolden('goldens/tokenizer', name));
  it.runIf(vocabularies.length > 0)("gives them on OpenAI's vocabulary", async () => {
    const file = goldenJson<PromptFile>('goldens/tokenizer/clip_real_prompts.json');
    await check(file, goldenPath('goldens/tokenizer', vocabularies[0]!));
  });
});
