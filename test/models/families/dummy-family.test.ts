/** One object makes a family: opened, drawn with, fused and written, with nothing else that knows it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { readFloat32 } from '../../../src/formats/raw-tensor.ts';
import { fuse } from '../../../src/fusion/fuse.ts';
import { writeFusion } from '../../../src/fusion/output.ts';
import { toDense } from '../../../src/linalg/low-rank.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import { FAMILIES } from '../../../src/models/families/families.ts';
import { familyOfWordWidth } from '../../../src/models/families/recognise.ts';
import { defaultBase } from '../../../src/package-root.ts';
import { Pipeline } from '../../../src/sampling/sample.ts';
import { writeRandomConcept } from '../../support/random-concept.ts';
import { dummy, WIDTH, writeDummyModel } from './dummy-family.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'edlora-family-'));
const model = path.join(folder, 'model');
const families = [dummy, ...FAMILIES];
let base: Checkpoint;
beforeAll(async () => {
  const { tokenizer } = await openCheckpoint(defaultBase());
  await writeDummyModel(model, tokenizer.vocabSize);
  base = await openCheckpoint(model, { families });
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Seven: two on the way down, the middle, four on the way up. */
const CONTEXTS = 7;

async function writeConcept(name: string, seed: number): Promise<string> {
  const file = path.join(folder, `${name}.safetensors`);
  await writeRandomConcept(file, base, { words: [`<${name}>`], seed });
  return file;
}

const draw = async (parts: Parameters<typeof Pipeline.create>[1], own = base): Promise<Uint8Array> => {
  const pipeline = await Pipeline.create(own, parts);
  try {
    const [picture] = await pipeline.sample({ prompt: '<one> and <two>', steps: 2, seed: 1 });
    expect([picture!.width, picture!.height]).toEqual([32, 32]);
    return picture!.data;
  } finally {
    await pipeline.dispose();
  }
};

describe('a family that only the test knows', () => {
  it('is recognised, and its layers follow from its configuration', async () => {
    expect(base.family.name).toBe('dummy');
    expect(base.parts.layers.contextCount).toBe(CONTEXTS);
    const projection = base.parts.layers.get('unet:mid_block.attentions.0.proj_in')!;
    expect(projection).toMatchObject({ m: 32, n: 32, kernel: null, role: 'projection' });
    // The shipped families do not claim it, save that linear projections are Stable Diffusion 2's.
    expect(familyOfWordWidth(WIDTH)).toBeNull();
    expect((await openCheckpoint(model)).family.name).toBe('sd2');
  });

  it('draws with its own reading of prompts', async () => {
    const picture = await draw({});
    expect(await draw({})).toEqual(picture);
    // The same weights read as another family reads them.
    expect(await draw({}, await openCheckpoint(model))).not.toEqual(picture);
  });

  it('fuses concepts, and writes a model of the family', async () => {
    const files = [await writeConcept('one', 11), await writeConcept('two', 12)];
    const concepts = await Promise.all(files.map(async (file) => ({ concept: await loadConcept(file) })));
    const options = { steps: 2, runs: 1, promptTemplates: ['a {}'] };
    const fusion = await fuse({ base, concepts, options, preserveCaptions: ['a circle'] });
    const trained = base.parts.layers.linear().filter(({ role }) => /attention|context/.test(role));
    expect(new Set(fusion.layers.keys())).toEqual(new Set(trained.map(({ id }) => id)));
    const deltas = new Map([...fusion.layers].map(([id, { delta }]) => [id, delta]));
    expect(await draw({ vocabulary: fusion.vocabulary, deltas })).not.toEqual(
      await draw({ vocabulary: fusion.vocabulary }),
    );
    const out = path.join(folder, 'fused');
    await writeFusion(fusion, out, { checkpoint: true });
    const written = await openCheckpoint(path.join(out, 'model'), { families });
    expect(written.family.name).toBe('dummy');
    for (const { id, component, layerName } of trained) {
      const before = readFloat32(base.parts.get(component).weights.get(`${layerName}.weight`)!);
      const after = readFloat32(written.parts.get(component).weights.get(`${layerName}.weight`)!);
      const change = toDense(deltas.get(id)!).data;
      expect(after).toBeAllClose(
        before.map((value, i) => value + change[i]!),
        { rtol: 1e-4, atol: 1e-5 },
      );
    }
  });
});
