/** Jobs that are told to stop: they end with the signal's reason, and leave nothing behind. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { inspect } from '../../src/concepts/inspect.ts';
import { hashFile } from '../../src/formats/file-hash.ts';
import { fileHashes } from '../../src/merging/hashes.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { extractModel } from '../../src/merging/jobs/extract-model.ts';
import type { StrengthOptions } from '../../src/merging/jobs/inputs.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { resizeFile } from '../../src/merging/jobs/resize-file.ts';
import { verifyFile } from '../../src/merging/verify.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';

const concepts = path.join(packageRoot(), 'fixtures/tiny-world/concepts');
const smiley = path.join(concepts, 'edlora_smiley.pth');
const bullseye = path.join(concepts, 'edlora_bullseye.pth');
const adapter = (file: string): StrengthOptions => ({
  path: file,
  strength: 1,
  textEncoderStrength: null,
  blockWeights: null,
});

let folder: string;
let place: string;
let tuned: string;
let merged: string;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-interruption-'));
  place = path.join(folder, 'place');
  mkdirSync(place);
  tuned = path.join(folder, 'tuned');
  await bakeFiles({ base: defaultBase(), inputs: [adapter(smiley)], drop: true, out: tuned });
  merged = path.join(folder, 'merged.safetensors');
  await mergeFiles({ inputs: [adapter(smiley), adapter(bullseye)], drop: true, out: merged });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Job = (out: string, signal: AbortSignal, step: () => void) => Promise<unknown>;

const jobs: Readonly<Record<string, Job>> = {
  merge: (out, signal, step) =>
    mergeFiles({
      inputs: [adapter(smiley), adapter(bullseye)],
      base: defaultBase(),
      drop: true,
      out: `${out}.safetensors`,
      signal,
      onProgress: step,
    }),
  convert: (out, signal, step) =>
    convertFile({
      input: smiley,
      format: 'kohya',
      drop: true,
      out: `${out}.safetensors`,
      signal,
      onProgress: step,
    }),
  'convert to a folder': (out, signal, step) =>
    convertFile({ input: smiley, format: 'peft', drop: true, out, signal, onProgress: step }),
  resize: (out, signal, step) =>
    resizeFile({
      input: smiley,
      rule: { kind: 'rank' },
      rank: 2,
      drop: true,
      out: `${out}.safetensors`,
      signal,
      onProgress: step,
    }),
  extract: (out, signal, step) =>
    extractModel({
      tuned,
      base: defaultBase(),
      rank: 2,
      drop: true,
      out: `${out}.safetensors`,
      signal,
      onProgress: step,
    }),
  bake: (out, signal, step) =>
    bakeFiles({ base: defaultBase(), inputs: [adapter(smiley)], drop: true, out, signal, onProgress: step }),
};

describe.each(Object.entries(jobs))('%s', (_, job) => {
  it('ends between two steps with the signal’s reason, and leaves nothing', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    let steps = 0;
    const running = job(path.join(place, 'result'), controller.signal, () => {
      if (++steps === 2) controller.abort(reason);
    });
    await expect(running).rejects.toBe(reason);
    // The step under way when the signal came is the last one.
    expect(steps).toBe(2);
    expect(readdirSync(place)).toEqual([]);
  });

  it('does not begin when it is told to stop before', async () => {
    const reason = new Error('enough');
    let steps = 0;
    const running = job(path.join(place, 'result'), AbortSignal.abort(reason), () => steps++);
    await expect(running).rejects.toBe(reason);
    expect(steps).toBe(0);
    expect(readdirSync(place)).toEqual([]);
  });
});

describe('what only reads', () => {
  it('extracting ends while it compares tensors that do not differ', async () => {
    const reason = new Error('enough');
    const controller = new AbortController();
    const running = extractModel({
      tuned: defaultBase(),
      base: defaultBase(),
      rank: 2,
      out: path.join(place, 'none.safetensors'),
      signal: controller.signal,
    });
    // Files are opened without waiting; timers have their turn between two tensors.
    setTimeout(() => controller.abort(reason), 1);
    await expect(running).rejects.toBe(reason);
  });

  it('inspecting, hashing and verifying end with the signal’s reason', async () => {
    const reason = new Error('enough');
    const signal = AbortSignal.abort(reason);
    await expect(inspect(merged, { hash: true, signal })).rejects.toBe(reason);
    await expect(hashFile(merged, signal)).rejects.toBe(reason);
    await expect(fileHashes(merged, signal)).rejects.toBe(reason);
    await expect(verifyFile(merged, { signal })).rejects.toBe(reason);
  });

  it('verifying ends while it repeats the job, and removes what it made', async () => {
    // A place for temporary files of its own: others verify on this machine, too.
    const temporary = path.join(folder, 'temporary');
    mkdirSync(temporary);
    vi.stubEnv('TMPDIR', temporary);
    const reason = new Error('enough');
    const controller = new AbortController();
    const running = verifyFile(merged, { rebuild: true, search: [concepts], signal: controller.signal });
    running.catch(() => undefined);
    while (readdirSync(temporary).length === 0) await new Promise((resolve) => setImmediate(resolve));
    controller.abort(reason);
    await expect(running).rejects.toBe(reason);
    expect(readdirSync(temporary)).toEqual([]);
    vi.unstubAllEnvs();
  });
});
