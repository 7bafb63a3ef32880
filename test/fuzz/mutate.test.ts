/** Inputs: the same index gives the same bytes, other indices others; damage of a structure keeps the rest of it whole. */
import { describe, expect, it } from 'vitest';
import { makeInput } from './make-input.ts';
import { mutateJson } from './mutate/json.ts';
import { mutatePickle } from './mutate/pickle.ts';
import { readPlain, writePlain } from './mutate/safetensors.ts';
import { readEntries } from './mutate/zip.ts';
import { Random } from './random.ts';
import { targets } from './targets/index.ts';
import { plain, torch, torchZip } from './targets/seeds.ts';

const bytesOf = (input: ReturnType<typeof makeInput>): string =>
  input.files.map(({ bytes }) => Buffer.from(bytes).toString('base64')).join();

describe.each(targets.map((target) => [target.name, target] as const))('%s', (_, target) => {
  it('repeats an input exactly, and no other', async () => {
    const [first, second] = [await target.seeds(), await target.seeds()];
    const made = Array.from({ length: 40 }, (_, i) => bytesOf(makeInput(target, first, 7, i)));
    const again = Array.from({ length: 40 }, (_, i) => bytesOf(makeInput(target, second, 7, i)));
    expect(again).toEqual(made);
    const pristine = new Set(first.map((files) => bytesOf({ seed: files, files, random: new Random(0) })));
    // A few are left as they are, by luck.
    expect(made.filter((bytes) => !pristine.has(bytes)).length).toBeGreaterThan(28);
    expect(new Set(made).size).toBeGreaterThan(28);
    expect(bytesOf(makeInput(target, first, 8, 0))).not.toBe(made[0]);
  });
});

describe('random choices', () => {
  it('depend on every word of the seed', () => {
    const first = (...words: (string | number)[]): number => new Random(...words).next();
    const values = [first('a', 1, 2), first('a', 1, 3), first('a', 2, 2), first('b', 1, 2), first('a', 12)];
    expect(new Set(values).size).toBe(values.length);
    expect(first('a', 1, 2)).toBe(values[0]);
  });

  it('are even, and stay in range', () => {
    const random = new Random('even');
    const counts = Array.from({ length: 10 }, () => 0);
    for (let i = 0; i < 10_000; i++) counts[random.below(10)]!++;
    expect(Math.min(...counts)).toBeGreaterThan(850);
    for (let i = 0; i < 1000; i++) expect(random.few(8)).toBeLessThanOrEqual(8);
  });
});

describe('damage', () => {
  it('of JSON often stays JSON, with other content', () => {
    const text = '{"a": [1, 2, {"b": "c"}], "d": {"e": null}}';
    const results = Array.from({ length: 200 }, (_, i) => mutateJson(new Random('json', i), text));
    const parsed = results.filter((result) => {
      try {
        JSON.parse(result);
        return true;
      } catch {
        return false;
      }
    });
    expect(parsed.length).toBeGreaterThan(120);
    expect(results.some((result) => /"(\w*)":[^{}]*"\1":/.test(result))).toBe(true);
    expect(results.some((result) => result.includes('__proto__'))).toBe(true);
  });

  it('of pickles keeps the length of strings true', () => {
    const pickle = Buffer.from('\x80\x02X\x03\x00\x00\x00abc.', 'latin1');
    const lengths = Array.from({ length: 4000 }, (_, i) => mutatePickle(new Random('pickle', i), pickle))
      .filter((bytes) => bytes[2] === 0x58 && bytes.at(-1) === 0x2e && bytes.length > 11)
      .map((bytes) => bytes.readUInt32LE(3) - (bytes.length - 8));
    expect(lengths.filter((difference) => difference === 0).length).toBeGreaterThan(10);
  });

  it('starts from files that are read as they were written', async () => {
    const written = writePlain({ tensors: [plain('a', 2, 3), plain('b', 1)], metadata: [['k', 'v']] });
    expect(writePlain(readPlain(written)).equals(written)).toBe(true);
    const { bytes } = await torchZip('a.pt', new Map([['w', torch(2)]]));
    expect(readEntries(Buffer.from(bytes)).map(({ name }) => name)).toContainEqual(
      expect.stringMatching(/data\.pkl$/),
    );
  });
});
