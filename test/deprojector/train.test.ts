/** Training on the miniature: a few steps, gone on with, read back, and what is refused. */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { deproject } from '../../src/deprojector/apply.ts';
import { checkEncoder } from '../../src/deprojector/deprojector.ts';
import { projected, unit } from '../../src/deprojector/embedding.ts';
import { textEncoderHash } from '../../src/deprojector/encoder-hash.ts';
import { openDeprojector, openStates, writeDeprojector, writeStates } from '../../src/deprojector/file.ts';
import { readPromptList } from '../../src/deprojector/prompts.ts';
import { type DeprojectorRequest, splitPrompts, trainDeprojector } from '../../src/deprojector/train.ts';
import {
  FormatError,
  InterruptedError,
  MismatchError,
  NumericalError,
  UsageError,
} from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { openClipModel } from '../../src/models/clip/clip-model.ts';
import { encodeText } from '../../src/models/clip/encode-text.ts';
import { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import { defaultBase } from '../../src/package-root.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'edlora-deproject-'));
const file = (name: string): string => path.join(folder, name);
afterAll(() => rmSync(folder, { recursive: true }));

let request: DeprojectorRequest;
beforeAll(async () => {
  const prompts = (await readPromptList(path.join(defaultBase(), 'deprojector_prompts.txt'))).slice(0, 24);
  request = {
    base: await openCheckpoint(defaultBase()),
    clip: await openClipModel(path.join(defaultBase(), 'clip')),
    prompts: [...prompts, `${'red '.repeat(80)}circle`, prompts[0]!],
    settings: {
      model: 'vicinity-joint',
      epochs: 2,
      batch: 8,
      lr: 3e-3,
      noise: 0.1,
      blur: 0.2,
      rollout: 0.5,
      heldOut: 0.2,
      warmup: 2,
    },
    statesFile: file('prompts.safetensors'),
  };
});

describe('a training', () => {
  it('learns, counts its prompts, and is the same in one go or in two', async () => {
    const whole = await trainDeprojector(request);
    expect(whole.counts).toEqual({ trained: 20, heldOut: 5, cut: 1 });
    expect(whole.losses).toHaveLength(6);
    expect(whole.losses.at(-1)).toBeLessThan(0.8 * whole.losses[0]!);
    expect(whole.heldOut.teacherForced).toHaveLength(76);
    // The first position has none before it.
    expect(whole.heldOut.autoregressive[0]).toBeCloseTo(whole.heldOut.teacherForced[0]!, 5);
    expect(whole.heldOut.autoregressive[5]).not.toBeCloseTo(whole.heldOut.teacherForced[5]!, 5);

    const made = statSync(request.statesFile).mtimeMs;
    const stop = new AbortController();
    const stateFile = file('run.state.safetensors');
    const begun = trainDeprojector({
      ...request,
      stateFile,
      signal: stop.signal,
      onProgress: ({ step }) => step?.step === 3 && stop.abort(new Error('enough')),
    });
    await expect(begun).rejects.toThrow(/after step 3 is kept/);
    await expect(begun).rejects.toThrow(InterruptedError);
    const steps: number[] = [];
    const rest = await trainDeprojector({
      ...request,
      stateFile,
      resume: true,
      onProgress: ({ step }) => step !== undefined && steps.push(step.step),
    });
    expect(steps).toEqual([4, 5, 6]);
    expect(rest.losses).toEqual(whole.losses);
    for (const name of ['vicinity.neighbours.weight', 'final_layer_norm.bias', 'layer.mlp.fc1.weight']) {
      const of = ({ deprojector }: typeof whole) => readFloat32(deprojector.weights.get(name)!);
      expect(of(rest)).toEqual(of(whole));
    }
    // The text encoder ran for the first of the three.
    expect(statSync(request.statesFile).mtimeMs).toBe(made);

    const other = { ...request, stateFile, resume: true };
    const settings = { ...request.settings, lr: 1e-3 };
    await expect(trainDeprojector({ ...other, settings })).rejects.toThrow(/other settings \(lr\)/);
    await expect(trainDeprojector({ ...other, prompts: request.prompts.slice(1) })).rejects.toThrow(
      /prompts or models/,
    );
  });

  it('reads other states with noise, with a rollout, and other embeddings with a blur', async () => {
    const settings = { model: 'vicinity-individual', batch: 20, heldOut: 0.2, epochs: 2, warmup: 0 } as const;
    const losses = async (more: object): Promise<readonly number[]> =>
      (await trainDeprojector({ ...request, settings: { ...settings, ...more } })).losses;
    const plain = await losses({});
    for (const more of [{ noise: 0.5 }, { blur: 0.5 }, { rollout: 1 }]) {
      const other = await losses(more);
      expect(other[0], JSON.stringify(more)).toBeGreaterThan(1.02 * plain[0]!);
    }
  });

  it('holds out prompts by its seed, one at least and never all', () => {
    const split = splitPrompts(10, { heldOut: 0.2, seed: 1 });
    expect([...split.trained, ...split.heldOut].sort((a, b) => a - b)).toEqual([
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
    ]);
    expect(split.heldOut).toHaveLength(2);
    expect(splitPrompts(10, { heldOut: 0.2, seed: 2 }).heldOut).not.toEqual(split.heldOut);
    expect(splitPrompts(2, { heldOut: 0, seed: 0 }).heldOut).toHaveLength(1);
    expect(splitPrompts(2, { heldOut: 0.9, seed: 0 }).trained).toHaveLength(1);
  });

  it('refuses one prompt, and names every wrong setting', async () => {
    await expect(trainDeprojector({ ...request, prompts: ['a', 'a'] })).rejects.toThrow(UsageError);
    const settings = { ...request.settings, batch: 0, lr: -1 };
    await expect(trainDeprojector({ ...request, settings })).rejects.toThrow(/batch: .*\nlr: /);
  });
});

describe('a deprojector’s file', () => {
  it('is read as it was written, and makes the same states', async () => {
    const { deprojector } = await trainDeprojector({
      ...request,
      settings: { ...request.settings, model: 'transformer', epochs: 1 },
    });
    await writeDeprojector(file('d.safetensors'), deprojector, { prompts: '25' });
    const read = await openDeprojector(file('d.safetensors'));
    const { weights: _, label: __, ...plain } = read;
    const { weights: ___, label: ____, ...expected } = deprojector;
    expect(plain).toEqual(expected);
    const { textEncoder } = request.base.parts;
    expect(read.textEncoder).toBe(await textEncoderHash(textEncoder));
    const table = new TokenEmbeddings(textEncoder.weights, textEncoder.config);
    const { ids } = request.base.tokenizer.encodePadded('a red circle');
    const { hiddenStates } = await encodeText(textEncoder, table, [ids]);
    const end = ids.indexOf(textEncoder.config.eosTokenId) * 64;
    const embedding = unit(projected(read.space, hiddenStates.data.slice(end, end + 64)));
    const [[ours], [theirs]] = await Promise.all([
      deproject(read, [embedding], executionContext()),
      deproject(deprojector, [embedding, unit(embedding.map((value) => value + 0.01))], executionContext()),
    ]);
    expect(ours!.shape).toEqual([77, 64]);
    expect(ours!.data.subarray(0, 64)).toEqual(hiddenStates.data.subarray(0, 64));
    expect(ours!.data).toBeAllClose(theirs!.data, { rtol: 1e-4, atol: 1e-4 });

    await expect(deproject(read, [embedding.slice(1)], executionContext())).rejects.toThrow(MismatchError);
    await expect(deproject(read, [embedding.with(3, Number.NaN)], executionContext())).rejects.toThrow(
      NumericalError,
    );
    expect(() => checkEncoder('d', read.textEncoder, 'f'.repeat(64))).toThrow(MismatchError);
    expect(() => checkEncoder('d', read.textEncoder, read.textEncoder)).not.toThrow();

    const opened = await openTensorFile(file('d.safetensors'));
    const written = async (change: Record<string, string>, tensors = [...opened.tensors.values()]) => {
      const memory = tensors.map((raw) => float32Tensor(raw.name, raw.shape, readFloat32(raw).slice()));
      await writeSafetensors(file('bad.safetensors'), memory, {
        ...Object.fromEntries(opened.metadata),
        ...change,
      });
      return openDeprojector(file('bad.safetensors'));
    };
    await expect(written({})).resolves.toBeDefined();
    await expect(written({ format: 'pt' })).rejects.toThrow(/expected a deprojector/);
    await expect(written({ model: 'mlp' })).rejects.toThrow(/model/);
    await expect(written({ heads: '5' })).rejects.toThrow(/divisor/);
    await expect(written({ width: '32' })).rejects.toThrow(/expected F32 \[/);
    await expect(written({ text_encoder: 'abc' })).rejects.toThrow(/sha256/);
    const [first, ...others] = [...opened.tensors.values()];
    await expect(written({}, others)).rejects.toThrow(`${first!.name}: expected F32`);
    const values = readFloat32(first!).slice();
    values[0] = Number.POSITIVE_INFINITY;
    await expect(written({}, [float32Tensor(first!.name, first!.shape, values), ...others])).rejects.toThrow(
      /finite/,
    );
    const surplus = float32Tensor('surplus', [1], new Float32Array(1));
    await expect(written({}, [first!, ...others, surplus])).rejects.toThrow(/no tensor "surplus"/);
    await expect(openDeprojector(request.statesFile)).rejects.toThrow(FormatError);

    const states = { states: ours!, textEncoder: read.textEncoder, source: '"a red circle"' };
    await writeStates(file('s.safetensors'), states);
    expect(await openStates(file('s.safetensors'))).toEqual(states);
    await expect(openStates(file('d.safetensors'))).rejects.toThrow(/expected states/);
  });
});
