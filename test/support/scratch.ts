/** Places for what a test writes. They go away with the run: the folder is the one that cache-folder.ts makes. */
import { mkdtempSync } from 'node:fs';
import path from 'node:path';

/** A fresh path. */
export function scratch(name: string): string {
  return path.join(mkdtempSync(path.join(process.env.EDLORA_CACHE!, 'scratch-')), name);
}
