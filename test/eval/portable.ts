/**
 * What a portable concept keeps: identity rate and other prompts of every shipped concept, and of every pair's fusion, with one
 * embedding per layer (native), with the mean embedding and the concept's own weights, and ported. `npm run eval:portable`; some
 * minutes. `--samples n`, `--ranks 8 16`, `--concepts` (concepts alone, no pairs), `--json`.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { defaultCaptions, withEmptyPrompt } from '../../src/fusion/captions.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { PORT_DEFAULTS, portable } from '../../src/fusion/port/port.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { CONCEPTS, type ConceptName } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import type { DrawingModel } from './draw.ts';
import { identityRate, otherPromptsRate } from './identity.ts';

const { values: options } = parseArgs({
  options: {
    samples: { type: 'string', default: '24' },
    rank: { type: 'string', default: String(PORT_DEFAULTS.rank) },
    ridge: { type: 'string', default: String(PORT_DEFAULTS.ridge) },
    preserve: { type: 'string', default: String(PORT_DEFAULTS.preserve) },
    concepts: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});
const SAMPLES = Number(options.samples);
const PORT = { rank: Number(options.rank), ridge: Number(options.ridge), preserve: Number(options.preserve) };

const base = await openCheckpoint(defaultBase());
const captions = withEmptyPrompt(await defaultCaptions(base));
const percent = (rate: number): string => `${Math.round(100 * rate)} %`;
const rows: Record<string, string>[] = [];

/** One row per concept, one for other prompts. */
async function judge(label: string, names: readonly ConceptName[], deltas: ModelDeltas): Promise<void> {
  const concepts = [];
  for (const name of names) {
    concepts.push(
      await loadConcept(path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`)),
    );
  }
  const port = await portable({ base, deltas, concepts, captions, options: PORT });
  const layerCount = base.parts.layers.contextCount;
  const model = (own: ModelDeltas, words: typeof port.concepts): DrawingModel => ({
    base,
    deltas: own,
    vocabulary: bindConcepts(base.tokenizer, words, layerCount),
  });
  const models = {
    native: model(deltas, concepts),
    'mean embedding': model(deltas, port.concepts),
    portable: model(port.deltas, port.concepts),
  };
  const kept = port.layers.reduce((sum, layer) => sum + layer.kept, 0) / port.layers.length;
  for (const name of names) {
    const row: Record<string, string> = { model: label, what: name };
    for (const [way, own] of Object.entries(models))
      row[way] = percent((await identityRate(own, name, SAMPLES)).rate);
    rows.push({ ...row, 'kept on held-out templates': percent(kept) });
  }
  const row: Record<string, string> = { model: label, what: 'other prompts' };
  for (const [way, own] of Object.entries(models)) row[way] = percent(await otherPromptsRate(own, SAMPLES));
  rows.push(row);
}

for (const name of CONCEPTS) {
  const concept = await loadConcept(
    path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`),
  );
  await judge(name, [name], await conceptDeltas(base, concept));
}
for (const [i, a] of CONCEPTS.entries()) {
  for (const b of options.concepts ? [] : CONCEPTS.slice(i + 1)) {
    const concepts = [];
    for (const name of [a, b]) {
      const file = path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`);
      concepts.push({ concept: await loadConcept(file) });
    }
    const { layers } = await fuse({ base, concepts });
    await judge(`${a} + ${b} fused`, [a, b], new Map([...layers].map(([id, { delta }]) => [id, delta])));
  }
}
printReport({
  title: `One embedding per word in place of one per layer, ${SAMPLES} samples each`,
  rows,
  notes: [
    `ported at rank ${PORT.rank}, ridge ${PORT.ridge}, preservation ${PORT.preserve}; DDIM, 25 steps, guidance 4`,
    'mean embedding: the mean of the layers’ embeddings with the concept’s own weights',
  ],
});
