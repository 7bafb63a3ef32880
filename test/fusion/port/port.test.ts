/** Keys and values that answer under one embedding per word: the stated optimum, on the miniature with random weights. */
import { beforeAll, describe, expect, it } from 'vitest';
import type { Concept } from '../../../src/concepts/concept.ts';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../../src/concepts/fit.ts';
import { bindConcepts } from '../../../src/concepts/prompt.ts';
import { readFloat32, readFloat64 } from '../../../src/formats/raw-tensor.ts';
import { type Port, portable } from '../../../src/fusion/port/port.ts';
import { PORT_DEFAULTS } from '../../../src/fusion/port/port-options.ts';
import { toDense } from '../../../src/linalg/low-rank.ts';
import { matrix } from '../../../src/linalg/matrix.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import type { TokenEncoderOptions } from '../../../src/models/families/conditioning.ts';
import type { LayerId } from '../../../src/models/families/layer-table.ts';
import type { ModelDeltas } from '../../../src/models/lora.ts';
import { TorchGenerator } from '../../../src/tensor/random.ts';
import { goldenPath } from '../../support/goldens.ts';
import { vectorsOf } from '../../support/tokens.ts';

const TEMPLATES = ['photo of a {}', '{}', 'a {} on a table', 'two of them, {} and a dog'];
const CAPTIONS = ['photo of a dog', ''];
const RIDGE = 1e-3;
const FULL = { rank: 1024, ridge: RIDGE, steps: 0, templates: TEMPLATES };
const ID: LayerId = 'unet:mid_block.attentions.0.transformer_blocks.0.attn2.to_v';

let base: Checkpoint;
let concept: Concept;
let deltas: ModelDeltas;
let full: Port;
beforeAll(async () => {
  base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
  concept = await loadConcept(goldenPath('goldens/tiny-random/edlora.pth'));
  deltas = await conceptDeltas(base, concept);
  full = await portable({ base, deltas, concepts: [concept], captions: CAPTIONS, options: FULL });
}, 60_000);

describe('a portable concept', () => {
  it('has one embedding per word, the mean of its layers’', () => {
    const [word] = full.concepts[0]!.tokens;
    const embedding = vectorsOf(concept.tokens[0]!);
    const [rows, width] = embedding.shape as [number, number];
    expect(word!.word).toBe('<potter1>');
    expect(vectorsOf(word!).shape).toEqual([1, width]);
    const values = readFloat32(embedding);
    const mean = Float32Array.from({ length: width }, (_, j) => {
      let sum = 0;
      for (let i = 0; i < rows; i++) sum += values[i * width + j]!;
      return sum / rows;
    });
    expect(readFloat32(vectorsOf(word!))).toBeAllClose(mean, { rtol: 1e-6 });
  });

  it('changes keys and values of every cross-attention, and nothing else', () => {
    const context = [...base.parts.layers].filter(({ role }) => role === 'context');
    expect(full.layers.map(({ id }) => id)).toEqual(context.map(({ id }) => id));
    for (const [id, delta] of deltas) {
      const same = full.deltas.get(id) === delta;
      expect(same, id).toBe(!context.some((layer) => layer.id === id));
    }
  });

  /** Features of the templates that were seen, and of the captions, under both kinds of words. */
  async function features() {
    const { tokenizer, family, parts } = base;
    const shared = bindConcepts(tokenizer, full.concepts, parts.layers.contextCount);
    const native = bindConcepts(tokenizer, [concept], parts.layers.contextCount);
    const texts = TEMPLATES.slice(0, 3).map((text) => text.replaceAll('{}', '<potter1> <potter2>'));
    const read = async (
      added: TokenEncoderOptions['added'],
      own: ModelDeltas,
      ids: readonly (readonly number[])[],
    ) => {
      const { states } = await family.base
        .tokenEncoder(parts, { added, deltas: own })
        .encode(ids.map((own) => [own]));
      return Float64Array.from(states.data);
    };
    const ids = (vocabulary: typeof shared, index: number) =>
      texts.map((text) => vocabulary.encode(text, { pad: true })[index]!);
    const captions = CAPTIONS.map((text) => tokenizer.encodePadded(text).ids);
    const { contextIndex } = parts.layers.get(ID)!;
    return {
      x: await read(shared.embeddingRows, deltas, ids(shared, 0)),
      f: await read(native.embeddingRows, deltas, ids(native, contextIndex!)),
      xCaptions: await read(shared.embeddingRows, deltas, captions),
      fCaptions: await read(undefined, new Map(), captions),
    };
  }
  const energy = (rows: Float64Array): number => rows.reduce((sum, value) => sum + value * value, 0);

  /** Loss and gradient of the objective at a change of the layer, from its definition. */
  function objective(
    { x, f, xCaptions, fCaptions }: Awaited<ReturnType<typeof features>>,
    change: Float64Array,
  ) {
    const { m, n, layerName } = base.parts.layers.get(ID)!;
    const weight = readFloat64(base.parts.unet.weights.get(`${layerName}.weight`, [m, n])!);
    const own = toDense(deltas.get(ID)!).data;
    const lambda = (RIDGE * energy(x)) / n;
    const gradient = change.map((value) => lambda * value);
    let loss = lambda * energy(change);
    const add = (rows: Float64Array, targets: Float64Array, wanted: Float64Array | null, factor: number) => {
      for (let r = 0; r < rows.length; r += n) {
        for (let i = 0; i < m; i++) {
          let error = 0;
          for (let j = 0; j < n; j++) {
            const at = i * n + j;
            error += (weight[at]! + change[at]!) * rows[r + j]!;
            error -= (weight[at]! + (wanted?.[at] ?? 0)) * targets[r + j]!;
          }
          loss += factor * error * error;
          for (let j = 0; j < n; j++) gradient[i * n + j]! += factor * error * rows[r + j]!;
        }
      }
    };
    add(x, f, own, 1);
    add(xCaptions, fCaptions, null, energy(x) / energy(xCaptions));
    return { loss, gradient: Math.sqrt(energy(gradient)) };
  }

  it('is where the gradient of the objective is zero', async () => {
    const rows = await features();
    const own = objective(rows, toDense(deltas.get(ID)!).data);
    const answer = objective(rows, toDense(full.deltas.get(ID)!).data);
    expect(own.gradient).toBeGreaterThan(1e-2);
    expect(answer.gradient / own.gradient).toBeLessThan(1e-5);
    expect(answer.loss).toBeLessThan(own.loss);
  });

  it('of a small rank is the best of that rank', async () => {
    const options = { ...FULL, rank: 1 };
    const one = await portable({ base, deltas, concepts: [concept], captions: CAPTIONS, options });
    const delta = one.deltas.get(ID)!;
    expect(delta.up.cols).toBe(1);
    const rows = await features();
    const { loss } = objective(rows, toDense(delta).data);
    expect(loss).toBeGreaterThan(objective(rows, toDense(full.deltas.get(ID)!).data).loss);
    const random = new TorchGenerator(4);
    for (const side of ['up', 'down'] as const) {
      const noise = random.randn(delta[side].data.length);
      const { rows: height, cols, data } = delta[side];
      for (const step of [1e-3, -1e-3]) {
        const moved = matrix(
          height,
          cols,
          data.map((value, i) => value + step * noise[i]!),
        );
        expect(objective(rows, toDense({ ...delta, [side]: moved }).data).loss).toBeGreaterThan(loss);
      }
    }
  });

  it('whose words are shared already has its own change back', async () => {
    const flat = { ...concept, tokens: full.concepts[0]!.tokens };
    const options = { ...FULL, ridge: 1e-6 };
    const again = await portable({ base, deltas, concepts: [flat], captions: [], options });
    for (const { kept, keptByOwn } of again.layers) {
      expect(keptByOwn).toBeCloseTo(1, 6);
      expect(kept).toBeGreaterThan(0.95);
    }
  });

  it('needs words, and options within their ranges', async () => {
    const request = { base, deltas, captions: [] };
    await expect(portable({ ...request, concepts: [{ ...concept, tokens: [] }] })).rejects.toThrow(
      'a plain LoRA already is what other programs read',
    );
    for (const [options, message] of [
      [{ rank: 0 }, 'rank: expected a whole number'],
      [{ ridge: 0 }, 'ridge: expected a number above 0'],
      [{ preserve: -1 }, 'preserve: expected 0'],
      [{ templates: ['a {}'] }, 'templates: expected 4 or more'],
    ] as const) {
      await expect(portable({ ...request, concepts: [concept], options })).rejects.toThrow(message);
    }
    expect(PORT_DEFAULTS.templates.every((text) => text.includes('{}'))).toBe(true);
  });
});
