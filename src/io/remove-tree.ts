/** Removal of what this tool made, also where parts of it came from a read-only place and kept their modes. */
import { chmod, readdir, rm, stat } from './platform/disk.ts';
import * as path from './platform/paths.ts';

/** Remove a file or folder with all that is in it. Never throws: what cannot be removed is a later run's. */
export async function removeTree(target: string): Promise<void> {
  try {
    await rm(target, { recursive: true, force: true });
  } catch {
    await makeWritable(target).catch(() => undefined);
    await rm(target, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** Give the owner of a tree the right to change it: its folders get 0700 added to their modes, its files 0600. */
export async function makeWritable(folder: string): Promise<void> {
  const entries = await readdir(folder, { withFileTypes: true });
  for (const entry of entries) {
    const place = path.join(folder, entry.name);
    if (entry.isDirectory()) {
      await addMode(place, 0o700);
      await makeWritable(place);
    } else if (entry.isFile()) await addMode(place, 0o600);
  }
}

async function addMode(place: string, mode: number): Promise<void> {
  await chmod(place, ((await stat(place)).mode | mode) & 0o777);
}
