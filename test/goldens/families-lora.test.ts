/** One LoRA in every spelling against its merge by the Python libraries: what it changes, and what the changed networks give. */
import { readdirSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { toDense } from '../../src/linalg/low-rank.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { within } from '../../src/models/families/layer-table.ts';
import { paddedIds } from '../../src/models/families/prompt-ids.ts';
import { deltaFeeds, deltaRanks, type ModelDeltas } from '../../src/models/lora.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { familyJson, GOLDEN_FAMILIES, TOLERANCE } from '../support/golden-families.ts';
import { Golden } from '../support/golden-file.ts';
import { familiesPath } from '../support/goldens.ts';

interface LoraJson {
  prompts: string[];
  deltas: string[];
}

describe.each(GOLDEN_FAMILIES)('a LoRA of %s', (family) => {
  const files = readdirSync(familiesPath(family, 'lora')).filter((name) => !name.endsWith('.json'));
  const index = familyJson<LoraJson>(family, 'lora_golden.json');
  let base: Checkpoint;
  let golden: Golden;
  beforeAll(async () => {
    base = await openCheckpoint(familiesPath(family, 'model'));
    golden = await Golden.open(familiesPath(family, 'lora_golden.safetensors'));
  });
  const deltasOf = async (file: string, strength: number): Promise<ModelDeltas> =>
    conceptDeltas(base, await loadConcept(familiesPath(family, 'lora', file)), {
      unetStrength: strength,
      textEncoderStrength: strength,
      convolutions: true,
    });
  /** Strengths that the golden has runs of. */
  const strengthsOf = (): [string, number][] =>
    [...golden.file.tensors.keys()].flatMap((name) => {
      const match = /^(s([\d.]+))\/out$/.exec(name);
      return match === null ? [] : [[match[1]!, Number(match[2])] as [string, number]];
    });

  it.each(files)('changes every layer alike in %s', async (file) => {
    const deltas = await deltasOf(file, 1);
    for (const name of index.deltas) {
      const [component, ...path] = name.split('.');
      const delta = deltas.get(`${component}:${path.join('.')}`);
      if (delta === undefined) throw new Error(`${file} has no ${name}`);
      expect(toDense(delta).data, name).toBeAllClose(golden.values(`delta/${name}`), TOLERANCE);
    }
    // All spellings hold all layers.
    expect([...deltas.keys()].sort()).toEqual([...(await deltasOf(files[0]!, 1)).keys()].sort());
  });

  it('changes what the text encoders give', async () => {
    const ids = index.prompts.map((prompt) => paddedIds(base.parts.tokenizers, prompt));
    for (const [name, strength] of strengthsOf()) {
      const deltas = await deltasOf(files[0]!, strength);
      const { states, pooled } = await base.family.base.tokenEncoder(base.parts, { deltas }).encode(ids);
      expect(states.data).toBeAllClose(golden.values(`${name}/context`), TOLERANCE);
      if (pooled !== undefined) expect(pooled.data).toBeAllClose(golden.values(`${name}/pooled`), TOLERANCE);
    }
  });

  it.each(['', '_rect'])('changes what the UNet predicts (sample%s)', async (kind) => {
    const { weights, config, layers } = base.parts.unet;
    const sample = golden.tensor(`sample${kind}`);
    const context = golden.tensor(`ctx${kind}`);
    const [batch, , latentHeight, latentWidth] = sample.shape as [number, number, number, number];
    const own = within('unet', await deltasOf(files[0]!, 1));
    const loraRanks = deltaRanks(own);
    const size = { batch, latentHeight, latentWidth, tokens: context.shape[1]! };
    const { graph } = buildUnet(weights, config, size, { layerwiseContext: false, loraRanks });
    const session = await defaultRuntime().load(graph, 'once');
    const added: Record<string, Tensor> = golden.has('time_ids')
      ? {
          text_embeds: golden.tensor(`pooled${kind}`),
          time_ids: golden.tensor(`time_ids${kind}`),
        }
      : {};
    for (const [name, strength] of strengthsOf()) {
      const deltas = within('unet', await deltasOf(files[0]!, strength));
      const { noise_pred } = await session.run({
        sample,
        timestep: float32([batch], new Float32Array(batch).fill(golden.values('timestep')[0]!)),
        encoder_hidden_states: context,
        ...added,
        ...deltaFeeds(deltas, loraRanks, layers),
      });
      expect(noise_pred!.data as Float32Array).toBeAllClose(golden.values(`${name}/out${kind}`), TOLERANCE);
    }
    await session.dispose();
  });
});
