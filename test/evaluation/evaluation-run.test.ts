import { mkdtempSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { readEvaluationReport } from '../../src/evaluation/evaluation-report.ts';
import { runEvaluation } from '../../src/evaluation/evaluation-run.ts';
import { readPictureFolder } from '../../src/evaluation/picture-folder.ts';
import { ReportFolder } from '../../src/evaluation/report-folder.ts';
import { summedParts } from '../../src/evaluation/weight-sum.ts';
import { readPngTexts } from '../../src/formats/png.ts';
import { toDense } from '../../src/linalg/low-rank.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { openClipModel } from '../../src/models/clip/clip-model.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';

const concepts = path.join(packageRoot(), 'fixtures/tiny-world/concepts');
const root = mkdtempSync(path.join(tmpdir(), 'edlora-run-'));
afterAll(() => rm(root, { recursive: true }));

it('draws, scores, looks inside and writes one folder', async () => {
  const base = await openCheckpoint(defaultBase());
  const concept = await loadConcept(path.join(concepts, 'edlora_smiley.pth'));
  const other = await loadConcept(path.join(concepts, 'edlora_bullseye.pth'));
  const words = '<smiley1> <smiley2>';
  const { report, files } = await runEvaluation({
    base,
    clip: await openClipModel(path.join(defaultBase(), 'clip')),
    concept: 'smiley',
    references: (await readPictureFolder(path.join(concepts, 'smiley'))).slice(0, 2),
    variants: [
      { name: 'single', description: 'its own ED-LoRA', words, parts: await summedParts(base, [concept]) },
      {
        name: 'sum',
        description: 'both at 0.5',
        words,
        parts: await summedParts(base, [concept, other], 0.5),
      },
    ],
    prompts: ['photo of a <TOK>'],
    samples: 2,
    sampling: { steps: 2, guidanceScale: 4 },
    folder: new ReportFolder(path.join(root, 'report')),
    styleMix: {
      a: { prompt: `photo of a ${words}`, described: 'a yellow circle' },
      b: { prompt: 'a blue square' },
      switched: [0, 8, 16],
    },
    density: [concept],
    attentionPrompt: 'photo of a <TOK> on a red background',
  });
  expect(await readEvaluationReport(files.json)).toEqual(report);
  expect(report.variants.map(({ name, description }) => [name, description])).toEqual([
    ['single', 'its own ED-LoRA'],
    ['sum', 'both at 0.5'],
  ]);
  expect(report.settings).toEqual({
    samples: 2,
    seed: 0,
    steps: 2,
    guidanceScale: 4,
    sampler: 'dpmpp-2m',
    width: 64,
    height: 64,
  });
  expect(report.styleMix!.points).toHaveLength(3);
  expect(report.density![0]!.embeddings.map(({ word }) => word)).toEqual(['<smiley1>', '<smiley2>']);
  expect(report.attention!.prompt).toBe(`photo of a ${words} on a red background`);
  expect(report.attention!.maps).toHaveLength(8);
  const file = path.join(root, 'report', report.variants[0]!.samples[1]!.file);
  expect(Object.fromEntries(await readPngTexts(file))).toEqual({ prompt: `photo of a ${words}`, seed: '1' });
  expect(await readFile(files.html, 'utf8')).toContain('Evaluation of smiley');
});

it('sums deltas layer by layer', async () => {
  const base = await openCheckpoint(defaultBase());
  const pair = await Promise.all(
    ['smiley', 'bullseye'].map((name) => loadConcept(path.join(concepts, `edlora_${name}.pth`))),
  );
  const { deltas, vocabulary } = await summedParts(base, pair, 0.25);
  const own = await Promise.all(pair.map(async (concept) => conceptDeltas(base, concept)));
  for (const [name, delta] of [...deltas].slice(-5)) {
    const expected = toDense(own[0]!.get(name)!).data.map(
      (value, i) => 0.25 * (value + toDense(own[1]!.get(name)!).data[i]!),
    );
    expect(toDense(delta).data).toBeAllClose(expected, { rtol: 1e-12, atol: 1e-12 });
  }
  expect(vocabulary.tokens.map(({ word }) => word)).toHaveLength(4);
  await expect(summedParts(base, [])).rejects.toThrow('at least one concept');
});
