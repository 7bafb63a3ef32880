/**
 * Does the README's first fusion draw? Identity rate of both concepts and of other prompts; beside it base and single
 * concepts, and the ways that the defaults were chosen against. `npm run eval:smoke`; about two minutes.
 */
import path from 'node:path';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { prepareConcept } from '../../src/fusion/fusion-concept.ts';
import { type FusionOptions, PRESETS } from '../../src/fusion/options.ts';
import type { FusionReport } from '../../src/fusion/report/report.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import { fusedModel, plainModel } from './draw.ts';
import { identityRate, otherPromptsRate } from './identity.ts';

const SAMPLES = 24;
const NAMES: readonly ConceptName[] = ['smiley', 'bullseye'];

const base = await openCheckpoint(defaultBase());
const concepts = [];
for (const name of NAMES) {
  const file = path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`);
  concepts.push({ concept: await loadConcept(file) });
}
/** The default, and what it is chosen against. */
const WAYS: Readonly<Record<string, Partial<FusionOptions>>> = {
  fused: {},
  'no contrast': { contrast: 1 },
  unguided: {
    guidanceScale: 1,
    runs: 1,
    statistics: 'fused',
    preserve: { text: 0.3, cross: 1, spatial: 0.3 },
  },
  'mix-of-show': PRESETS['mix-of-show'],
};

const percent = (rate: number): string => `${Math.round(100 * rate)} %`;
const rows: Record<string, string>[] = [];
for (const [i, name] of NAMES.entries()) {
  const { deltas, concept } = await prepareConcept(base, concepts[i]!);
  const alone = { base, deltas, vocabulary: bindConcepts(base.tokenizer, [concept]) };
  rows.push({ what: name, alone: percent((await identityRate(alone, name, SAMPLES)).rate) });
}
rows.push({ what: 'other prompts', alone: percent(await otherPromptsRate(plainModel(base), SAMPLES)) });

const measured: Record<string, { rates: Record<string, number>; other: number; report: FusionReport }> = {};
for (const [way, options] of Object.entries(WAYS)) {
  const fusion = await fuse({ base, concepts, options });
  const model = fusedModel(fusion);
  const rates: Record<string, number> = {};
  for (const [i, name] of NAMES.entries()) {
    rates[name] = (await identityRate(model, name, SAMPLES)).rate;
    rows[i]![way] = percent(rates[name]);
  }
  const other = await otherPromptsRate(model, SAMPLES);
  rows.at(-1)![way] = percent(other);
  measured[way] = { rates, other, report: fusion.report };
}
const { rates, other } = measured.fused!;
const good = Object.values(rates).every((rate) => rate >= 0.6) && other >= 0.8;
printReport({
  title: `Pictures of the fused miniature, ${SAMPLES} samples each (DDIM 25 steps, guidance 4)`,
  rows,
  notes: [
    'concepts: share of samples in which the detector finds the concept; "alone" is its own ED-LoRA',
    'other prompts: "photo of a COLOUR SHAPE" with both words right; "alone" is the base model',
    '"fused": the defaults; "no contrast": prompted rows as they are; "unguided": features without guidance;',
    '"mix-of-show": the published objective, without preservation',
    `goal of the defaults: both concepts ≥ 60 %, other prompts ≥ 80 %: ${good ? 'reached' : 'missed'}`,
  ],
  details: measured,
});
if (!good) process.exitCode = 1;
