import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { readManifest } from '../../src/concepts/manifest.ts';
import { bindConcepts, type ConceptConfig } from '../../src/concepts/prompt.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readFloat32, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { loadTokenizer } from '../../src/models/clip/tokenizer.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

const runs = readdirSync(goldenPath('goldens-fusion/fusion'))
  .map((name) => /^run_(\d+)$/.exec(name)?.[1])
  .filter((count) => count !== undefined);

describe('prompt binding, goldens', () => {
  it('gives the prompts, ids and embedding rows of Mix-of-Show', async () => {
    const golden = goldenJson<{
      prompt: string;
      negative_prompt: string;
      concepts: ConceptConfig;
      extended_prompts: string[];
    }>('goldens/tiny-random/edlora_golden.json');
    const { tensors } = await openTensorFile(goldenPath('goldens/tiny-random/edlora_golden.safetensors'));
    const tokenizer = await loadTokenizer(goldenPath('goldens/tiny-random/model'));
    const concept = await loadConcept(goldenPath('goldens/tiny-random/edlora.pth'));
    const bound = bindConcepts(tokenizer, [concept]);
    expect(bound.conceptConfig()).toEqual(golden.concepts);
    expect(bound.layerPrompts(golden.prompt)).toEqual(golden.extended_prompts);
    expect(bound.encode(golden.prompt, { pad: true }).flat()).toEqual([
      ...readFloat64(tensors.get('prompt_ids')!),
    ]);
    expect(bound.encode(golden.negative_prompt, { pad: true })[0]).toEqual([
      ...readFloat64(tensors.get('negative_ids')!),
    ]);
    expect([...bound.embeddingRows('text_encoder')]).toEqual([
      ...readFloat32(tensors.get('merged/text_encoder/token_embedding_tail')!),
    ]);
  });

  it.each(runs)('writes the concept configuration of the fusion of %s', async (count) => {
    const specs = await readManifest(goldenPath(`goldens-fusion/fusion/concept_list_${count}.json`));
    const concepts = await Promise.all(specs.map(({ path }) => loadConcept(path)));
    const bound = bindConcepts(await loadTokenizer(goldenPath('goldens-fusion/fusion/base_model')), concepts);
    expect(bound.conceptConfig()).toEqual(
      goldenJson<ConceptConfig>(`goldens-fusion/fusion/run_${count}/new_concept_cfg.json`),
    );
    const { tensors } = await openTensorFile(
      goldenPath(`goldens-fusion/fusion/run_${count}/latents_and_embeddings.safetensors`),
    );
    const table = readFloat32(tensors.get('token_embedding_after_step3')!);
    const rows = bound.embeddingRows('text_encoder');
    expect([...rows]).toEqual([...table.subarray(table.length - rows.length)]);
    const list = goldenJson<{ concept_name: string }[]>(`goldens-fusion/fusion/concept_list_${count}.json`);
    expect(specs.map(({ conceptName }) => conceptName)).toEqual(list.map((entry) => entry.concept_name));
  });
});
