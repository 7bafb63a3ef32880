/** Long jobs let signals and timers have their turn: the longest stretch of each, of work that took seconds in one. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadAdapter } from '../src/adapters/read.ts';
import { hashFile } from '../src/formats/file-hash.ts';
import { openTensorFile } from '../src/formats/open-tensor-file.ts';
import { float32Tensor, memoryTensor, type RawTensor } from '../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../src/formats/safetensors.ts';
import { eighSteps } from '../src/linalg/eigh.ts';
import { truncateSteps } from '../src/linalg/low-rank.ts';
import { convertFile } from '../src/merging/jobs/convert-file.ts';
import type { StrengthOptions } from '../src/merging/jobs/inputs.ts';
import { mergeFiles } from '../src/merging/jobs/merge-files.ts';
import { resizeFile } from '../src/merging/jobs/resize-file.ts';
import { inOneGo, Pace, type Steps } from '../src/pace.ts';
import { TorchGenerator } from '../src/tensor/random.ts';
import { gramOf } from './support/fusion-problems.ts';
import { randomMatrix } from './support/matrices.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-pace-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => path.join(folder, name);

/** What a signal may wait for at most. */
const MOST_MS = 1000;

/** Time that this thread has had a processor for, where the system tells; else time as such. Other programs count for nothing. */
const schedule = '/proc/thread-self/schedstat';
const own = existsSync(schedule)
  ? (): number => Number(readFileSync(schedule, 'utf8').split(' ')[0]) / 1e6
  : (): number => performance.now();

/** The longest stretch, in milliseconds, in which no timer had its turn. */
async function longestStretch(work: () => Promise<unknown>): Promise<number> {
  let [before, longest] = [own(), 0];
  const tick = (): void => {
    const now = own();
    longest = Math.max(longest, now - before);
    before = now;
  };
  const timer = setInterval(tick, 5);
  await work().finally(() => clearInterval(timer));
  await after(1);
  tick();
  return longest;
}

const generator = new TorchGenerator(1);
const random = (name: string, ...shape: number[]): RawTensor => {
  const values = generator.rand(
    shape.reduce((a, b) => a * b, 1),
    -0.1,
    0.1,
  );
  return float32Tensor(name, shape, values);
};
async function written(name: string, tensors: readonly RawTensor[]): Promise<string> {
  await writeSafetensors(at(name), tensors);
  return at(name);
}
const widest = 'lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj';

describe('no stretch over a second', () => {
  const jobs: [string, () => Promise<() => Promise<unknown>>][] = [
    [
      'while a whole difference is cut to a rank',
      async () => {
        const input = await written('diff.safetensors', [random(`${widest}.diff`, 1400, 700)]);
        return () => resizeFile({ input, out: at('resized.safetensors'), rule: { kind: 'rank' }, rank: 16 });
      },
    ],
    [
      'while whole changes are pruned and elected',
      async () => {
        const inputs: StrengthOptions[] = [];
        for (const name of ['a', 'b']) {
          const factors = [
            random(`${widest}.lora_up.weight`, 10240, 4),
            random(`${widest}.lora_down.weight`, 4, 1280),
          ];
          const file = await written(`${name}.safetensors`, factors);
          inputs.push({ path: file, strength: 1, textEncoderStrength: null, blockWeights: null });
        }
        return () => mergeFiles({ inputs, out: at('merged.safetensors'), method: 'ties-svd', rank: 4 });
      },
    ],
    [
      'while a LoHa of full rank becomes LoRA',
      async () => {
        const pair = (of: string) => [
          random(`${widest}.hada_${of}_a`, 5120, 40),
          random(`${widest}.hada_${of}_b`, 40, 1280),
        ];
        const input = await written('loha.safetensors', [...pair('w1'), ...pair('w2')]);
        return () => convertFile({ input, out: at('converted.safetensors'), format: 'kohya', rank: 4 });
      },
    ],
    [
      'while a file of thousands of layers is opened',
      async () => {
        const tensors: RawTensor[] = [];
        for (let i = 0; i < 8000; i++) {
          const stem = `unet.down_blocks.1.attentions.0.transformer_blocks.${i}.attn1.to_q`;
          tensors.push(random(`${stem}.lora_A.weight`, 1, 4), random(`${stem}.lora_B.weight`, 4, 1));
        }
        const file = await written('many.safetensors', tensors);
        return () => loadAdapter(file);
      },
    ],
    [
      'while a field of 50 MB in a header is passed over',
      async () => {
        const field = `{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":[${'1,'.repeat(25e6)}1]}}`;
        const length = Buffer.alloc(8);
        length.writeBigUInt64LE(BigInt(field.length));
        writeFileSync(at('field.safetensors'), Buffer.concat([length, Buffer.from(field)]));
        return () => openTensorFile(at('field.safetensors'));
      },
    ],
    [
      'while 300 MB are hashed',
      async () => {
        const file = await written('large.safetensors', [
          memoryTensor('x', 'U8', [3e8], new Uint8Array(3e8)),
        ]);
        return () => hashFile(file);
      },
    ],
  ];

  it.each(jobs)(
    '%s',
    async (_, prepare) => {
      const work = await prepare();
      expect(await longestStretch(work)).toBeLessThan(MOST_MS);
    },
    60_000,
  );
});

describe('steps', () => {
  it('give the same bits at a pace as in one go', async () => {
    const [gram, delta] = [
      gramOf(randomMatrix(1, 90, 70)),
      { up: randomMatrix(2, 80, 30), down: randomMatrix(3, 30, 60) },
    ];
    const pace = new Pace();
    expect(await pace.run(eighSteps(gram))).toEqual(inOneGo(eighSteps(gram)));
    expect(await pace.run(truncateSteps(delta, 7))).toEqual(inOneGo(truncateSteps(delta, 7)));
  });

  it('end with the signal’s reason, within a layer', async () => {
    const reason = new Error('enough');
    const controller = new AbortController();
    let steps = 0;
    function* endless(): Steps<never> {
      for (;;) {
        steps++;
        yield;
      }
    }
    setTimeout(() => controller.abort(reason), 20);
    await expect(new Pace(controller.signal).run(endless())).rejects.toBe(reason);
    expect(steps).toBeGreaterThan(1);
  });
});
