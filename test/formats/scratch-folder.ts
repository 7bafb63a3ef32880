/** A folder that lives as long as the tests of one file. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';

/** Create the folder; returns a function that gives paths in it. */
export function scratchFolder(): (...parts: string[]) => string {
  const folder = mkdtempSync(path.join(tmpdir(), 'edlora-test-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return (...parts) => path.join(folder, ...parts);
}
