/** Tests keep nothing in the user's cache: a folder of their own, gone when they are done. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

export default function setup(): () => void {
  const folder = mkdtempSync(path.join(tmpdir(), 'edlora-cache-'));
  process.env.EDLORA_CACHE = folder;
  return () => rmSync(folder, { recursive: true, force: true });
}
