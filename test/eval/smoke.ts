/**
 * Does the README's first fusion draw? Identity rate of both concepts and of other prompts, base and single concepts
 * beside it. `npm run eval:smoke`; about a minute.
 */
import path from 'node:path';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { prepareParticipant } from '../../src/fusion/participant.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import { fusedModel, plainModel } from './draw.ts';
import { identityRate, otherPromptsRate } from './identity.ts';

const SAMPLES = 24;
const NAMES: readonly ConceptName[] = ['smiley', 'bullseye'];

const base = await openCheckpoint(defaultBase());
const participants = [];
for (const name of NAMES) {
  const file = path.join(packageRoot(), 'fixtures/tiny-world/concepts', `edlora_${name}.pth`);
  participants.push({ concept: await loadConcept(file) });
}
const fusion = await fuse({ base, participants });
const percent = (rate: number): string => `${Math.round(100 * rate)} %`;
const rows = [];
const rates: Record<string, { rate: number; score: number }> = {};
for (const [i, name] of NAMES.entries()) {
  const { textDeltas, unetDeltas, concept } = prepareParticipant(base, participants[i]!);
  const alone = { base, textDeltas, unetDeltas, vocabulary: bindConcepts(base.tokenizer, [concept]) };
  const single = await identityRate(alone, name, SAMPLES);
  const fused = await identityRate(fusedModel(fusion), name, SAMPLES);
  rates[name] = fused;
  rows.push({
    what: name,
    alone: percent(single.rate),
    fused: percent(fused.rate),
    'kept (text / cross / spatial)': Object.values(fusion.report.concepts[i]!.kept)
      .map((kept) => (kept === null ? '–' : percent(kept)))
      .join(' / '),
  });
}
const other = await otherPromptsRate(fusedModel(fusion), SAMPLES);
rows.push({
  what: 'other prompts',
  alone: percent(await otherPromptsRate(plainModel(base), SAMPLES)),
  fused: percent(other),
});
const good = Object.values(rates).every(({ rate }) => rate >= 0.6) && other >= 0.8;
printReport({
  title: `Pictures of the fused miniature, ${SAMPLES} samples each (DDIM 25 steps, guidance 4)`,
  rows,
  notes: [
    'concepts: share of samples in which the detector finds the concept; "alone" is its own ED-LoRA',
    'other prompts: "photo of a COLOUR SHAPE" with both words right; "alone" is the base model',
    `goal: both concepts ≥ 60 %, other prompts ≥ 80 %: ${good ? 'reached' : 'missed'}`,
  ],
  details: { rates, other, report: fusion.report.concepts },
});
if (!good) process.exitCode = 1;
