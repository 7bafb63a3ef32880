/**
 * Are concepts that are trained here found as often as those that PyTorch trained? Trains each method on each of the
 * miniature's image sets, draws, and counts with the detector; the shipped ED-LoRA files stand beside them.
 * `npm run eval:training -- [--concepts smiley,checker] [--methods ed-lora,xti] [--steps 800] [--samples 40]`; an hour or
 * two with everything.
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import type { MethodName, TrainingInput } from '../../src/training/options.ts';
import { writeTrained } from '../../src/training/output.ts';
import { train } from '../../src/training/train.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { printReport } from '../support/tool-output.ts';
import { identityRate, wordsOf } from './identity.ts';

const { values } = parseArgs({
  options: {
    concepts: { type: 'string', default: 'smiley,bullseye,beachball,checker' },
    methods: { type: 'string', default: 'ed-lora,textual-inversion,xti,lora' },
    steps: { type: 'string', default: '800' },
    samples: { type: 'string', default: '40' },
    threads: { type: 'string', default: '1' },
    out: { type: 'string', default: '.build/eval-training' },
  },
});
const names = values.concepts.split(',') as ConceptName[];
const methods = values.methods.split(',') as MethodName[];
const [steps, samples] = [Number(values.steps), Number(values.samples)];
const folder = path.join(packageRoot(), 'fixtures/tiny-world/concepts');

/** What the shipped files were trained with; the miniature wants higher rates than SD 1.5. */
const SETTINGS = {
  batch: 8,
  lrEmbedding: 5e-3,
  lrText: 3e-5,
  lrUnet: 2.5e-3,
  noiseOffset: 0.01,
  shifts: 7,
  latents: 'mean',
  normStop: 0,
} as const satisfies Partial<TrainingInput>;

const base = await openCheckpoint(defaultBase());
await mkdir(values.out, { recursive: true });

async function rateOf(file: string, name: ConceptName): Promise<{ rate: number; score: number }> {
  const concept = await loadConcept(file);
  const model = {
    base,
    ...conceptDeltas(base, concept),
    vocabulary: bindConcepts(base.tokenizer, [concept]),
  };
  return identityRate(model, name, samples);
}

const percent = (rate: number): string => `${Math.round(100 * rate)} %`;
const rates: Record<string, Record<string, { rate: number; score: number }>> = { shipped: {} };
for (const name of names) {
  rates.shipped![name] = await rateOf(path.join(folder, `edlora_${name}.pth`), name);
  for (const method of methods) {
    const trained = await train({
      base,
      settings: {
        ...SETTINGS,
        method,
        data: path.join(folder, name),
        token: wordsOf(name).replace(' ', '+'),
        init: `<rand-0.013>+${name === 'checker' ? 'square' : 'circle'}`,
        steps,
        threads: Number(values.threads),
        attentionWeight: method === 'ed-lora' ? 0.01 : 0,
      },
    });
    const file = path.join(values.out, `${name}-${method}.safetensors`);
    await writeTrained(file, trained);
    rates[method] ??= {};
    rates[method][name] = await rateOf(file, name);
  }
}
const mean = (of: string): number =>
  names.reduce((sum, name) => sum + rates[of]![name]!.rate, 0) / names.length;
const measured = methods.includes('ed-lora');
const good = !measured || mean('ed-lora') >= mean('shipped') - 0.05;
printReport({
  title: `Concepts trained here, ${steps} steps of ${SETTINGS.batch}; ${samples} samples each (DDIM 25 steps, guidance 4)`,
  rows: Object.keys(rates).map((of) => ({
    trained: of === 'shipped' ? 'ED-LoRA, shipped (PyTorch)' : of,
    ...Object.fromEntries(names.map((name) => [name, percent(rates[of]![name]!.rate)])),
    mean: percent(mean(of)),
  })),
  notes: [
    'share of samples in which the detector finds the concept',
    ...(measured
      ? [`goal: ED-LoRA within 5 points of the shipped files: ${good ? 'reached' : 'missed'}`]
      : []),
  ],
  details: { steps, samples, rates },
});
if (!good) process.exitCode = 1;
