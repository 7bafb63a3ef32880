/** A fusion from files to files, on the miniature with random float32 weights. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { scaledDelta } from '../../src/adapters/delta.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { renameTokens } from '../../src/concepts/prompt.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { withEmptyPrompt } from '../../src/fusion/captions.ts';
import { estimateFusion, type PlannedPort } from '../../src/fusion/estimate.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import type { Fusion } from '../../src/fusion/fusion.ts';
import { DEFAULTS } from '../../src/fusion/options.ts';
import { writeFusion } from '../../src/fusion/output.ts';
import { type FuseRequest, planFusion } from '../../src/fusion/plan.ts';
import { readFusionRecipe } from '../../src/fusion/repeat.ts';
import type { FusionProgress } from '../../src/fusion/report/report.ts';
import { priorCaptions } from '../../src/fusion/statistics/collector.ts';
import { frobeniusNorm, toDense } from '../../src/linalg/low-rank.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { loadTokenizer } from '../../src/models/clip/tokenizer.ts';
import type { LayerId } from '../../src/models/families/layer-table.ts';
import { GuidedRows } from '../../src/sampling/guided-rows.ts';
import { relativeError } from '../support/close.ts';
import { goldenPath } from '../support/goldens.ts';
import { vectorsOf } from '../support/tokens.ts';

const FOLDER = 'goldens-fusion/fusion';
const file = (name: string): string => goldenPath(FOLDER, 'concepts', `${name}.pth`);
/** One step and short lists: what is tested here does not depend on them. */
const QUICK = { options: { steps: 1 }, preserveCaptions: ['a tree'] };

let base: Checkpoint;
let folder: string;
beforeAll(async () => {
  base = await openCheckpoint(goldenPath(FOLDER, 'base_model'));
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-fuse-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

async function request(names: readonly string[], strength = 1): Promise<FuseRequest> {
  const concepts = [];
  for (const name of names) {
    concepts.push({
      concept: await loadConcept(file(name)),
      unetStrength: strength,
      textEncoderStrength: strength,
    });
  }
  return { base, concepts, ...QUICK };
}

describe('fuse', () => {
  it('changes nothing at strength 0', async () => {
    const { layers } = await fuse(await request(['maple', 'river'], 0));
    expect(layers.size).toBeGreaterThan(0);
    for (const { delta } of layers.values()) expect(frobeniusNorm(delta)).toBe(0);
  });

  it('keeps a single concept whole without preservation and next to no ridge', async () => {
    const none = { text: 0, cross: 0, spatial: 0 };
    const tiny = { text: 1e-6, cross: 1e-9, spatial: 1e-4 };
    const { report } = await fuse({
      ...(await request(['maple'])),
      options: { steps: 1, preserve: none, ridge: tiny },
    });
    for (const kept of Object.values(report.concepts[0]!.kept)) expect(kept).toBeGreaterThan(0.99);
    expect(report.preservedCaptions).toBe(0);
  });

  it('does not depend on the order of concepts when statistics are their own', async () => {
    const options = { steps: 1, statistics: 'own' } as const;
    const one = await fuse({ ...(await request(['maple', 'river'])), options });
    const other = await fuse({ ...(await request(['river', 'maple'])), options });
    expect([...other.layers.keys()]).toEqual([...one.layers.keys()]);
    for (const [key, { delta }] of one.layers) {
      expect(
        relativeError(toDense(other.layers.get(key)!.delta).data, toDense(delta).data),
        key,
      ).toBeLessThan(1e-5);
    }
  });

  it('leaves out stages that were not asked for', async () => {
    const { layers } = await fuse({
      ...(await request(['maple'])),
      options: { steps: 1, stages: ['cross'] },
    });
    expect([...layers.values()].every(({ layerName }) => /attn2\.to_[kv]$/.test(layerName))).toBe(true);
  });

  it('reports progress up to its own total, and stops when told to', async () => {
    const both = await request(['maple', 'river']);
    const cacheFolder = path.join(folder, 'cache');
    const run = async (): Promise<FusionProgress[]> => {
      const seen: FusionProgress[] = [];
      await fuse({ ...both, cacheFolder, onProgress: (progress) => seen.push(progress) });
      return seen;
    };
    const [fresh, stored] = [await run(), await run()];
    expect(fresh.map(({ done }) => done)).toEqual(fresh.map((_, i) => i + 1));
    expect(new Set(fresh.map(({ total }) => total))).toEqual(new Set([fresh.length]));
    // A denoising step is most of the work, and what is kept on disk is none.
    const shareOf = (stage: string): number => {
      const at = fresh.findIndex((each) => each.stage === stage && each.action === 'collect');
      return fresh[at]!.share - (fresh[at - 1]?.share ?? 0);
    };
    expect(shareOf('spatial')).toBeGreaterThan(5 * shareOf('text'));
    expect(stored.map(({ action }) => action)).toEqual(stored.map(() => 'solve'));
    for (const seen of [fresh, stored]) {
      const shares = seen.map(({ share }) => share);
      expect(shares).toEqual(shares.toSorted((a, b) => a - b));
      expect(seen.at(-1)).toMatchObject({ done: seen.at(-1)!.total, share: expect.closeTo(1, 12) });
    }
    // What it would take is known beforehand: two concepts and the captions, a step each, none of which is left to do.
    const estimated = async (request: FuseRequest, port?: PlannedPort) =>
      estimateFusion(request, await planFusion(request), port);
    const passes = fresh.filter(({ stage, action }) => stage === 'spatial' && action !== 'solve').length;
    expect(await estimated({ ...both, cacheFolder })).toEqual({
      ...{ passes, keptPasses: passes, refinePasses: 0, portPasses: 0 },
      ...{ passMs: null, elapsedMs: null, memoryBytes: null },
    });
    // A refinement is left to do where no features are.
    const refined = await estimated({ ...both, cacheFolder, options: { ...both.options, refine: 2 } });
    expect(refined).toMatchObject({ passes, keptPasses: passes, memoryBytes: expect.any(Number) });
    const ofPass = new GuidedRows(1, { scale: DEFAULTS.guidanceScale }).count;
    expect(refined.elapsedMs! * ofPass).toBeGreaterThan(refined.refinePasses * refined.passMs!);
    expect(refined.refinePasses).toBeGreaterThan(100);
    // That of a port too, whose drawings take ten steps where these take one.
    const port = { options: { refine: 2 }, captions: (await planFusion(both)).captions };
    const ported = await estimated({ ...both, cacheFolder }, port);
    expect(ported).toMatchObject({ refinePasses: 0, memoryBytes: expect.any(Number) });
    expect(ported.portPasses).toBeGreaterThan(refined.refinePasses);
    expect(ported.elapsedMs! * ofPass).toBeGreaterThan(ported.portPasses * ported.passMs!);
    const alone = { ...(await request(['maple'])), cacheFolder, preserveCaptions: ['a stone', 'a tree'] };
    const { passMs, elapsedMs, ...counts } = await estimated(alone);
    const captioned = priorCaptions(withEmptyPrompt(alone.preserveCaptions), DEFAULTS).length;
    expect(counts).toMatchObject({ passes: DEFAULTS.runs + captioned, keptPasses: DEFAULTS.runs });
    expect(elapsedMs).toBeGreaterThan(captioned * passMs!);
    expect(counts.memoryBytes).toBeGreaterThan(1e7);
    const controller = new AbortController();
    const stopped = fuse({
      ...(await request(['maple'])),
      signal: controller.signal,
      onProgress: () => controller.abort(new Error('stop here')),
    });
    await expect(stopped).rejects.toThrow('stop here');
  });
});

describe('refusals', () => {
  it('names both files when two concepts share a word, and accepts a renamed one', async () => {
    const once = await loadConcept(file('maple'));
    await expect(fuse({ base, concepts: [{ concept: once }, { concept: once }] })).rejects.toThrow(
      /maple\.pth: the word <maple1> is also in .*maple\.pth; rename one with `renameTokens: /,
    );
    const renamed = renameTokens(
      once,
      new Map([
        ['<maple1>', '<a1>'],
        ['<maple2>', '<a2>'],
      ]),
    );
    const plan = await planFusion({ base, concepts: [{ concept: once }, { concept: renamed }] });
    expect(plan.concepts.map(({ name }) => name)).toEqual(['<maple1> <maple2>', '<a1> <a2>']);
  });

  it('names concept, base and the reason when they do not fit', async () => {
    const other = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
    const concept = await loadConcept(goldenPath('goldens/tiny-random/edlora.pth'));
    await expect(planFusion({ base: other, concepts: [{ concept }] })).resolves.toBeDefined();
    await expect(
      planFusion({ base: other, concepts: [{ concept: await loadConcept(file('maple')) }] }),
    ).rejects.toThrow(
      /maple\.pth does not fit .*tiny-random\/model: \d+ of \d+ layers; trained on a base of other width/,
    );
  });

  it('names an embedding of another width', async () => {
    const wide = path.join(folder, 'wide.safetensors');
    await writeSafetensors(wide, [
      float32Tensor('new_concept_embedding.<w>', [16, 1024], new Float32Array(16 * 1024)),
    ]);
    const concept = await loadConcept(wide);
    await expect(planFusion({ base, concepts: [{ concept }] })).rejects.toThrow(
      /embedding of <w>: expected \[16, \d+\], got \[16, 1024\]; trained on SD 2\.x\?/,
    );
  });

  it('checks options before anything is read', async () => {
    const { concepts } = await request(['maple']);
    const bad = (options: FuseRequest['options']) =>
      planFusion({ base, concepts, ...(options ? { options } : {}) });
    await expect(bad({ steps: 0 })).rejects.toThrow('steps: expected a whole number from 1 to 1000, got 0');
    await expect(bad({ ridge: { text: -1, cross: 0, spatial: 0 } })).rejects.toThrow('ridge text');
    await expect(bad({ stages: [] })).rejects.toThrow('stages');
    await expect(bad({ promptTemplates: ['no place'] })).rejects.toThrow('{}');
    await expect(planFusion({ base, concepts: [] })).rejects.toThrow('at least one concept');
  });
});

describe('writeFusion', () => {
  let fusion: Fusion;
  beforeAll(async () => {
    fusion = await fuse(await request(['maple', 'stone']));
  }, 60_000);

  it.each(['kohya', 'diffusers', 'peft', 'ed-lora'] as const)(
    'writes %s names that read back as the same change',
    async (naming) => {
      const out = path.join(folder, naming);
      const { files } = await writeFusion(fusion, out, { naming });
      expect(files.map((written) => path.basename(written.path))).toEqual([
        naming === 'peft' ? 'lora' : 'lora.safetensors',
        'embeddings.safetensors',
        'recipe.json',
        'report.json',
        'report.html',
      ]);
      const merged = await loadConcept(files[0]!.path);
      expect(merged.layers.size).toBe(fusion.layers.size);
      for (const [key, layer] of merged.layers) {
        const { delta } = fusion.layers.get(key as LayerId)!;
        expect(relativeError(toDense(scaledDelta(layer)).data, toDense(delta).data), key).toBeLessThan(1e-5);
      }
      const embeddings = await openTensorFile(files[1]!.path);
      for (const { concept } of fusion.concepts) {
        for (const token of concept.tokens) {
          const { word } = token;
          expect(readFloat32(embeddings.tensors.get(word)!)).toEqual(readFloat32(vectorsOf(token)));
        }
      }
    },
  );

  it('writes a model whose weights are the base plus the merged LoRA, layer by layer', async () => {
    const out = path.join(folder, 'with-model');
    const schedule = { ...fusion.base.schedule, chosenPrediction: 'v_prediction' } as const;
    const said = { ...fusion, base: { ...fusion.base, schedule } };
    await writeFusion(said, out, { checkpoint: true });
    const model = await openCheckpoint(path.join(out, 'model'));
    expect(model.schedule.config).toEqual({ ...schedule.config, prediction_type: 'v_prediction' });
    expect((await readFusionRecipe(out)).base.prediction).toBe('v_prediction');
    for (const { component, layerName, delta } of fusion.layers.values()) {
      const before = readFloat32(base.parts.get(component).weights.get(`${layerName}.weight`)!);
      const after = readFloat32(model.parts.get(component).weights.get(`${layerName}.weight`)!);
      const change = after.map((value, i) => value - before[i]!);
      expect(relativeError(change, toDense(delta).data), layerName).toBeLessThan(1e-5);
    }
    const tokenizer = await loadTokenizer(path.join(out, 'model'));
    const config = JSON.parse(
      readFileSync(path.join(out, 'model', 'new_concept_cfg.json'), 'utf8'),
    ) as Record<string, { concept_token_ids: number[]; concept_token_names: string[] }>;
    const table = model.parts.textEncoder.weights.get('text_model.embeddings.token_embedding.weight')!;
    const width = table.shape[1]!;
    for (const { concept } of fusion.concepts) {
      for (const token of concept.tokens) {
        const { word } = token;
        const { concept_token_ids: ids, concept_token_names: names } = config[word]!;
        expect(names.map((name) => tokenizer.tokenId(name))).toEqual(ids);
        const rows = readFloat32(table).subarray(ids[0]! * width, (ids.at(-1)! + 1) * width);
        expect([...rows]).toEqual([...readFloat32(vectorsOf(token))]);
      }
    }
    expect(existsSync(path.join(out, 'model', 'vae', 'config.json'))).toBe(true);
  });

  it('says what it was made of', async () => {
    const recipe = JSON.parse(readFileSync(path.join(folder, 'kohya', 'recipe.json'), 'utf8')) as {
      concepts: { files: { sha256: string }[] }[];
      options: { steps: number };
    };
    const { createHash } = await import('node:crypto');
    const hash = createHash('sha256')
      .update(readFileSync(file('maple')))
      .digest('hex');
    expect(recipe.concepts[0]!.files[0]!.sha256).toBe(hash);
    expect(recipe.options.steps).toBe(1);
  });

  it('asks before it writes into a folder that holds something', async () => {
    const out = path.join(folder, 'taken');
    await writeFusion(fusion, out);
    writeFileSync(path.join(out, 'mine.txt'), 'mine');
    await expect(writeFusion(fusion, out)).rejects.toThrow('`force`');
    await writeFusion(fusion, out, { force: true });
    expect(readFileSync(path.join(out, 'mine.txt'), 'utf8')).toBe('mine');
    await expect(writeFusion(fusion, file('maple'))).rejects.toThrow('expected a folder');
  });
});
