/** One rule for NaN and infinity in every job that reads a weight: an error of the file, which names the tensor. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadAdapter } from '../../src/adapters/read.ts';
import { loadEmbeddings } from '../../src/concepts/embedding-file.ts';
import { FormatError } from '../../src/errors.ts';
import { type DType, encodeFloat } from '../../src/formats/dtype.ts';
import { memoryTensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { describeAdapter } from '../../src/merging/adapter-report.ts';
import { bakeFiles } from '../../src/merging/jobs/bake-files.ts';
import { convertFile } from '../../src/merging/jobs/convert-file.ts';
import { lintFiles } from '../../src/merging/jobs/lint-files.ts';
import { mergeFiles } from '../../src/merging/jobs/merge-files.ts';
import { resizeFile } from '../../src/merging/jobs/resize-file.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { scratch } from './random-adapters.ts';

const base = fileURLToPath(new URL('../../fixtures/tiny-world/model', import.meta.url));
const module = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k';
const other = module.replace('to_k', 'to_q');

/** The layer's tensors by suffix, 32 × 32 as in the miniature. */
const KINDS: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>> = {
  LoRA: { 'lora_up.weight': [32, 2], 'lora_down.weight': [2, 32] },
  'a bias': { diff_b: [32], 'lora_up.weight': [32, 2], 'lora_down.weight': [2, 32] },
  LoHa: { hada_w2_b: [2, 32], hada_w1_a: [32, 2], hada_w1_b: [2, 32], hada_w2_a: [32, 2] },
  LoKr: { lokr_w1: [4, 4], lokr_w2_a: [8, 2], lokr_w2_b: [2, 8] },
};

function tensor(
  name: string,
  shape: readonly number[],
  dtype: 'F32' | 'F16' | 'BF16',
  bad?: number,
): RawTensor {
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.25);
  if (bad !== undefined) values[values.length - 1] = bad;
  return memoryTensor(name, dtype satisfies DType, shape, encodeFloat(values, dtype));
}

async function written(tensors: readonly RawTensor[]): Promise<string> {
  const file = scratch('bad.safetensors');
  await writeSafetensors(file, tensors, { format: 'pt' });
  return file;
}

const one = { strength: 0.5, textEncoderStrength: null, blockWeights: null };
type Job = (file: string) => Promise<unknown>;
const out = () => scratch('out.safetensors');
const JOBS: Readonly<Record<string, Job>> = {
  'convert to kohya': (input) => convertFile({ input, out: out(), format: 'kohya', rank: 2, drop: true }),
  'convert to lycoris': (input) => convertFile({ input, out: out(), format: 'lycoris' }),
  'convert the dtype': (input) => convertFile({ input, out: out(), format: 'lycoris', dtype: 'F16' }),
  'convert to diffusers': (input) =>
    convertFile({ input, out: out(), format: 'diffusers', rank: 2, drop: true }),
  merge: (file) => mergeFiles({ inputs: [{ path: file, ...one }], out: out(), drop: true }),
  resize: (input) => resizeFile({ input, out: out(), rule: { kind: 'rank' }, rank: 1, drop: true }),
  bake: (file) => bakeFiles({ base, inputs: [{ path: file, ...one }], out: scratch('model'), drop: true }),
  lint: (file) => lintFiles({ inputs: [{ path: file, ...one }] }),
  inspect: async (file) => describeAdapter(await loadAdapter(file)),
};

const refused = async (job: Promise<unknown>, name: string): Promise<void> => {
  const error = await job.then(
    () => null,
    (caught: unknown) => caught,
  );
  expect(error).toBeInstanceOf(FormatError);
  expect((error as FormatError).message).toContain(`${name}: expected finite numbers`);
  expect((error as FormatError).tensor).toBe(name);
};

describe.each(Object.keys(JOBS))('%s', (job) => {
  // What the scheme has no place for is left out, not read.
  const leavesBiases = job === 'convert to kohya' || job === 'convert to diffusers';
  it.each(Object.keys(KINDS).filter((kind) => !(leavesBiases && kind === 'a bias')))('%s', async (kind) => {
    const [first] = Object.keys(KINDS[kind]!);
    const name = `${other}.${first}`;
    const file = await written(
      [module, other].flatMap((layer) =>
        Object.entries(KINDS[kind]!).map(([suffix, shape]) => {
          const own = `${layer}.${suffix}`;
          return tensor(own, shape, 'F16', own === name ? Number.NaN : undefined);
        }),
      ),
    );
    await refused(JOBS[job]!(file), name);
  });
});

describe('an embedding', () => {
  const bundled = 'bundle_emb.cat.string_to_param.*';
  it.each(['convert to kohya', 'merge', 'resize'])('beside layers: %s', async (job) => {
    const layer = Object.entries(KINDS.LoRA!).map(([suffix, shape]) =>
      tensor(`${module}.${suffix}`, shape, 'F32'),
    );
    await refused(
      JOBS[job]!(await written([...layer, tensor(bundled, [1, 64], 'F32', Number.POSITIVE_INFINITY)])),
      bundled,
    );
  });

  it('alone, of a prompt', async () => {
    const file = await written([tensor('cat', [1, 64], 'F16', Number.NaN)]);
    await refused(loadEmbeddings(file, await openCheckpoint(base)), 'cat');
  });

  it.each(['diffusers-embedding', 'a1111', 'kohya-embedding', 'ed-lora', 'xti'] as const)(
    'alone: %s',
    async (format) => {
      const file = await written([tensor('cat', [1, 64], 'BF16', Number.NaN)]);
      await refused(convertFile({ input: file, out: scratch('out.pt'), format, drop: true }), 'cat');
    },
  );
});

it('a finite file passes', async () => {
  const tensors = Object.entries(KINDS.LoRA!).map(([suffix, shape]) =>
    tensor(`${module}.${suffix}`, shape, 'F16', 65504),
  );
  for (const format of ['kohya', 'lycoris'] as const) {
    const { out: done } = await convertFile({ input: await written(tensors), out: out(), format });
    expect(path.basename(done)).toBe('out.safetensors');
  }
});
