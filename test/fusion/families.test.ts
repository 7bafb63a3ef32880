/** Fusion on bases of other families: every layer of two text encoders, 28 cross-attentions, pooled text and sizes beside the timestep. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { loadEmbeddings } from '../../src/concepts/embedding-file.ts';
import { readFloat32 } from '../../src/formats/raw-tensor.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import type { Fusion } from '../../src/fusion/fusion.ts';
import { writeFusion } from '../../src/fusion/output.ts';
import { portable } from '../../src/fusion/port/port.ts';
import { writePort } from '../../src/fusion/port/write-port.ts';
import { toDense } from '../../src/linalg/low-rank.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { openSceneModel } from '../../src/sampling/model-source.ts';
import { relativeError } from '../support/close.ts';
import { familiesPath } from '../support/goldens.ts';
import { writeRandomConcept } from '../support/random-concept.ts';
import { scratch } from '../support/scratch.ts';

const OPTIONS = {
  steps: 1,
  runs: 1,
  promptTemplates: ['a {}'],
  ridge: { text: 1e-9, cross: 1e-9, spatial: 1e-9 },
};

describe.each(['sdxl', 'sd2'])('%s', (family) => {
  let base: Checkpoint;
  let fusion: Fusion;
  const words = ['<one>', '<two>'];
  beforeAll(async () => {
    base = await openCheckpoint(familiesPath(family, 'model'));
    const concepts = [];
    for (const [seed, word] of words.entries()) {
      const file = scratch(`${seed}.safetensors`);
      await writeRandomConcept(file, base, { words: [word], seed });
      concepts.push({ concept: await loadConcept(file) });
    }
    fusion = await fuse({ base, concepts, options: OPTIONS, preserveCaptions: ['a cat'] });
  }, 60_000);

  it('solves every trained layer', () => {
    const trained = base.parts.layers.linear().filter(({ role }) => /attention|context/.test(role));
    expect(new Set(fusion.layers.keys())).toEqual(new Set(trained.map(({ id }) => id)));
    expect(new Set(trained.map(({ component }) => component))).toEqual(
      new Set([...base.parts.textEncoders.keys(), 'unet']),
    );
  });

  it('writes what draws as the fusion does', async () => {
    const out = path.dirname(scratch('x'));
    await writeFusion(fusion, path.join(out, 'fused'), { checkpoint: true });
    const opened = await openSceneModel({ fused: path.join(out, 'fused'), concepts: [], loras: [] });
    for (const [id, { delta }] of fusion.layers) {
      expect(relativeError(toDense(opened.deltas.get(id)!).data, toDense(delta).data), id).toBeLessThan(1e-5);
    }
    for (const encoder of base.parts.textEncoders.keys()) {
      expect(opened.vocabulary.embeddingRows(encoder)).toEqual(fusion.vocabulary.embeddingRows(encoder));
    }
    const model = await openSceneModel({ fused: path.join(out, 'fused', 'model'), concepts: [], loras: [] });
    for (const [id, { component, layerName, delta }] of fusion.layers) {
      const weight = `${layerName}.weight`;
      const before = readFloat32(base.parts.get(component).weights.get(weight)!);
      const after = readFloat32(model.base.parts.get(component).weights.get(weight)!);
      const change = toDense(delta).data;
      const wanted = before.map((value, i) => value + change[i]!);
      expect(relativeError(Float64Array.from(after), Float64Array.from(wanted)), id).toBeLessThan(1e-3);
    }
    for (const prompt of ['a <one>', '<two> beside <one>']) {
      expect(model.vocabulary.promptIds(prompt)).toEqual(fusion.vocabulary.promptIds(prompt));
    }
  });

  it('is ported with one vector per word and text encoder', async () => {
    const port = await portable({
      base,
      deltas: new Map([...fusion.layers].map(([id, { delta }]) => [id, delta])),
      concepts: fusion.concepts.map(({ concept }) => concept),
      captions: ['a cat'],
      options: { rank: 2, steps: 0 },
    });
    expect(port.layers).toHaveLength(2 * base.parts.layers.contextCount);
    const { files } = await writePort(base, port, words, scratch('portable'));
    const word = files.find(
      ({ path: file }) => path.basename(file) === 'one.safetensors' || file.includes('<one>'),
    );
    const { concept } = await loadEmbeddings(word!.path, base);
    for (const [id, { config }] of base.parts.textEncoders) {
      expect(concept.tokens[0]!.embeddings.get(id)!.shape).toEqual([1, config.hiddenSize]);
    }
    const readme = readFileSync(files.find(({ path: file }) => file.endsWith('README.md'))!.path, 'utf8');
    expect(readme.includes('state["clip_g"]')).toBe(family === 'sdxl');
  });
});
