/** Prompts that a fusion has not seen: what a solved text encoder makes of them behind all of its layers, where errors have met. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { PromptReader } from '../../src/fusion/prompt-reader.ts';
import { stageOf } from '../../src/fusion/stage.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import { packageRoot } from '../../src/package-root.ts';

const world = path.join(packageRoot(), 'fixtures/tiny-world-xl');

describe('a plain LoRA fused alone', () => {
  it('answers wordings that it was not solved on as the LoRA does, and moves other prompts less', async () => {
    const base = await openCheckpoint(path.join(world, 'model'));
    const concept = await loadConcept(path.join(world, 'concepts/checker.safetensors'));
    const { layers } = await fuse({ base, concepts: [{ concept }], options: { stages: ['text'] } });
    const all = await conceptDeltas(base, concept);
    const own: ModelDeltas = new Map(
      [...all].filter(([id]) => stageOf(base.parts.layers.get(id)!) === 'text'),
    );
    const fused: ModelDeltas = new Map([...layers].map(([id, { delta }]) => [id, delta]));
    const vocabulary = bindConcepts(base.parts.tokenizers, [concept], base.parts.layers.contextCount);
    const reader = new PromptReader(base, vocabulary);
    const prompts = ['a large chkr board on a gray background', 'photo of a red star'];
    /** What a model makes of both. */
    const read = async (deltas: ModelDeltas): Promise<Float32Array[]> => {
      const encoder = reader.encoder(deltas);
      const states: Float32Array[] = [];
      for (const prompt of prompts)
        states.push((await encoder.encode(vocabulary.promptIds(prompt))).states.data);
      return states;
    };
    const squared = (a: Float32Array, b: Float32Array): number =>
      a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0);
    const [inOwn, inBase, inFused] = [await read(own), await read(new Map()), await read(fused)];
    // 0.85 and 0.20; solved on two wordings with a tenth of the ridge 0.62 and 0.19.
    expect(1 - squared(inFused[0]!, inOwn[0]!) / squared(inBase[0]!, inOwn[0]!)).toBeGreaterThan(0.8);
    expect(squared(inFused[1]!, inBase[1]!) / squared(inOwn[1]!, inBase[1]!)).toBeLessThan(0.22);
  });
});
