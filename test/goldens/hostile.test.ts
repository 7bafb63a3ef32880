/**
 * Every file of `goldens/hostile` is refused with a clear error, or loads where the index allows it. Nothing
 * runs, nothing is written, nothing takes long.
 */
import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { readBytes } from '../../src/formats/raw-tensor.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

interface HostileCase {
  category: string;
  wrong: string;
  expect: string;
}

const { files } = goldenJson<{ files: Record<string, HostileCase> }>('goldens/hostile/hostile.json');
const MAX_MILLISECONDS = 2000;
const MAX_RESIDENT_GROWTH = 200e6;

/** Open a file and read everything in it, as a careless user of the library would. */
async function readAll(file: string): Promise<number> {
  const { tensors } = await openTensorFile(file);
  for (const tensor of tensors.values()) readBytes(tensor);
  return tensors.size;
}

function canaries(): string[] {
  return readdirSync(process.cwd()).filter((name) => name.startsWith('golden_canary'));
}

describe('hostile files', () => {
  const residentBefore = process.memoryUsage.rss();

  for (const [name, { wrong, expect: verdict }] of Object.entries(files)) {
    it(`${name}: ${wrong}`, async () => {
      const file = goldenPath('goldens/hostile', name);
      const start = performance.now();
      const outcome = await readAll(file).catch((error: unknown) => error);
      expect(performance.now() - start).toBeLessThan(MAX_MILLISECONDS);
      if (verdict === 'load') {
        expect(outcome).toBeGreaterThan(0);
      } else if (outcome instanceof Error || verdict === 'refuse') {
        expect(outcome).toBeInstanceOf(FormatError);
        const { message } = outcome as FormatError;
        expect(message).toContain(name);
        expect(message).not.toContain('internal');
        expect(message.length).toBeGreaterThan(file.length + 20);
      } else {
        // The index allows something beside refusing, in words of its own; then the content is plain data.
        expect(verdict.length).toBeGreaterThan('refuse'.length);
      }
      expect(canaries()).toEqual([]);
    });
  }

  it('leaves the process small and the folder clean', () => {
    expect(process.memoryUsage.rss() - residentBefore).toBeLessThan(MAX_RESIDENT_GROWTH);
    expect(process.resourceUsage().maxRSS).toBeLessThan(400 * 1024);
    const held = readdirSync(goldenPath('goldens/hostile'));
    expect(held.filter((name) => name.startsWith('golden_canary'))).toEqual([]);
    expect(existsSync(goldenPath('goldens/evil.txt'))).toBe(false);
    expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
  });
});
