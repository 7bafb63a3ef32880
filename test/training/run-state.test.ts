/** Saved states: damaged ones are named with their fault and with the state before them, from which a run can go on. */
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { EdloraError, FormatError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { adamwState } from '../../src/optim/adamw.ts';
import { TRAINING_METHODS } from '../../src/training/methods/index.ts';
import { resolveSettings } from '../../src/training/methods/method.ts';
import { trainingSchema } from '../../src/training/options.ts';
import { previousStateFile, type RunState, restoreState, saveState } from '../../src/training/run-state.ts';

const SETTINGS = resolveSettings(
  TRAINING_METHODS['ed-lora'],
  trainingSchema.parse({ data: 'pictures', token: '<a>', init: '<rand-0.013>' }),
);

let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'edlora-state-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => {
  file = path.join(folder, 'face.state.safetensors');
  for (const name of [file, previousStateFile(file)]) rmSync(name, { force: true });
});

const parametersOf = (value: number) =>
  ['a', 'b'].map((name) => ({ name, group: 'unet' as const, data: new Float32Array(4).fill(value) }));

function stateOf(step: number): RunState {
  const optimizer = new Map(['a', 'b'].map((name) => [name, { ...adamwState(4), step }]));
  const log = Array.from({ length: step }, (_, i) => ({ step: i + 1, loss: 0.5, embeddingNorm: 0.25 }));
  return { step, stopped: false, optimizer, log };
}
const save = (step: number, isFirst = false) =>
  saveState(file, SETTINGS, parametersOf(step), stateOf(step), isFirst);
async function restored(): Promise<number> {
  const [parameters, state] = [parametersOf(-1), stateOf(0)];
  if (!(await restoreState(file, SETTINGS, parameters, state))) return 0;
  expect(parameters[1]!.data[0]).toBe(state.step);
  return state.step;
}

describe('a save', () => {
  it('keeps the state before it; the first of a run keeps none of an earlier run', async () => {
    await save(1, true);
    expect(existsSync(previousStateFile(file))).toBe(false);
    await save(2);
    await save(3);
    expect(path.basename(previousStateFile(file))).toBe('face.state.previous.safetensors');
    expect(await restored()).toBe(3);
    renameSync(previousStateFile(file), file);
    expect(await restored()).toBe(2);
    await save(3);
    await save(1, true);
    expect(existsSync(previousStateFile(file))).toBe(false);
  });
});

describe('a damaged state', () => {
  const damages: [string, () => void, RegExp][] = [
    ['cut', () => truncateSync(file, 500), /truncated/],
    ['empty', () => truncateSync(file, 0), /empty/],
    ['of another kind', () => writeFileSync(file, '{"a": 1}'), /expected a/],
    [
      'with a bit that fell over',
      () => {
        const bytes = readFileSync(file);
        bytes[bytes.length - 7]! ^= 1;
        writeFileSync(file, bytes);
      },
      /the file is damaged/,
    ],
    [
      'with settings that are no JSON',
      () => {
        const text = readFileSync(file, 'latin1');
        writeFileSync(file, text.replace('\\"method\\"', '\\"method\\\\'), 'latin1');
      },
      /settings: expected settings by name, in JSON/,
    ],
    ['gone', () => rmSync(file), /no such file/],
  ];

  it.each(damages)('%s is refused, and the one before it named', async (_, damage, message) => {
    await save(1, true);
    await save(2);
    damage();
    const failure = await restored().catch((error: unknown) => error as Error);
    expect(failure).toBeInstanceOf(FormatError);
    expect((failure as Error).message).toMatch(message);
    expect((failure as Error).message).toContain(
      `the state before it, after step 1, is whole: rename ${previousStateFile(file)} to face.state.safetensors, and \`resume\` goes on from there`,
    );
    renameSync(previousStateFile(file), file);
    expect(await restored()).toBe(1);
    damage();
    if (existsSync(file)) await expect(restored()).rejects.toThrow(/no whole state before it; start anew/);
  });

  it('of an earlier version, without a hash, is read if its numbers can be', async () => {
    await save(2, true);
    const { tensors, metadata } = await openTensorFile(file);
    const { sha256: _, ...labels } = Object.fromEntries(metadata);
    const numbers = [...tensors.values()].map((tensor) => ({ ...tensor, values: readFloat32(tensor) }));
    const write = async (more: object, name = '', values = [Number.NaN]) => {
      const changed = numbers.map(({ name: own, shape, values: kept }) =>
        float32Tensor(own, shape, own === name ? kept.slice().fill(values[0]!) : kept),
      );
      await writeSafetensors(file, changed, { ...labels, ...more });
    };
    await write({});
    expect(await restored()).toBe(2);
    for (const [more, name, values, message] of [
      [{}, 'parameter|a', [Number.NaN], /parameter\|a: expected finite numbers, got NaN/],
      [{}, 'square|b', [-1], /square\|b: expected finite numbers from 0, got -1/],
      [{}, 'optimizer_steps', [0.5], /optimizer_steps: expected whole numbers from 0, got 0\.5/],
      [{ step: '3' }, '', [], /expected loss with 3 numbers of F32, got F32 \[2\]/],
      [{ step: '1e3' }, '', [], /step: expected a whole number/],
      [{ step: '999999999' }, '', [], /step: /],
      [{ settings: 'null' }, '', [], /settings: expected settings by name/],
      [{ settings: '[1]' }, '', [], /settings: expected settings by name/],
    ] as const) {
      await write(more, name, [...values]);
      await expect(restored()).rejects.toThrow(message);
      await expect(restored()).rejects.toThrow(EdloraError);
      await write({});
    }
  });
});
