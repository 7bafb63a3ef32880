/** What lies in a folder: every file with its bytes as a hash, every link with its target. */
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { OWNER_PATTERN } from '../../src/io/platform/process-owner.ts';
import { LOCK_NAME } from '../../src/io/temporary-names.ts';

/** Path with forward slashes → mode and hash of a file, target of a link. Empty folders do not count. */
export type Snapshot = ReadonlyMap<string, string>;

/** Names of temporary files and folders, as src/io/temporary-names.ts makes them. */
const TEMPORARY = new RegExp(`^\\.(.{1,100})\\.(${OWNER_PATTERN})-[0-9a-f]{12}\\.(tmp|old)$`, 's');

/** Whether a path lies in, or is, something temporary. */
export function isTemporary(file: string): boolean {
  return file.split('/').some((part) => TEMPORARY.test(part) || part === LOCK_NAME);
}

/** The name a temporary file is on its way to: its beginning, at least. */
export function nameOfTemporary(part: string): string | null {
  return TEMPORARY.exec(part)?.[1] ?? null;
}

/** `.old` folders hold, under its own name, what was set aside. */
export function asideIn(file: string): string | null {
  const parts = file.split('/');
  const at = parts.findIndex((part) => TEMPORARY.test(part) && part.endsWith('.old'));
  return at < 0 ? null : [...parts.slice(0, at), ...parts.slice(at + 1)].join('/');
}

/** @param same leaves out of a file what differs from run to run */
export function snapshot(
  folder: string,
  same: (name: string, bytes: Buffer) => Buffer = (_, b) => b,
): Snapshot {
  const found = new Map<string, string>();
  const walk = (prefix: string): void => {
    for (const entry of readdirSync(path.join(folder, prefix), { withFileTypes: true })) {
      const name = prefix + entry.name;
      const file = path.join(folder, name);
      if (entry.isDirectory()) walk(`${name}/`);
      else if (entry.isSymbolicLink()) found.set(name, `-> ${readlinkSync(file)}`);
      else if (entry.isFile()) {
        const hash = createHash('sha256')
          .update(same(name, readFileSync(file)))
          .digest('hex');
        found.set(name, `${(lstatSync(file).mode & 0o777).toString(8)} ${hash}`);
      } else found.set(name, 'special');
    }
  };
  walk('');
  return found;
}

/** Hash without the mode: pictures of two runs are compared by it. */
export const contentOf = (entry: string): string => entry.split(' ')[1] ?? entry;

/** Paths whose entries differ. */
export function differences(a: Snapshot, b: Snapshot): string[] {
  return [...new Set([...a.keys(), ...b.keys()])].filter((name) => a.get(name) !== b.get(name)).sort();
}

/** Only the paths that `wanted` names. */
export function part(of: Snapshot, wanted: (name: string) => boolean): Snapshot {
  return new Map([...of].filter(([name]) => wanted(name)));
}

/** Whether a safetensors file is as long as its header says. */
export function isWholeSafetensors(file: string): boolean {
  const bytes = readFileSync(file);
  if (bytes.length < 8) return false;
  const length = Number(bytes.readBigUInt64LE());
  if (8 + length > bytes.length) return false;
  try {
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
      string,
      { data_offsets?: [number, number] }
    >;
    const end = Math.max(0, ...Object.values(header).map(({ data_offsets }) => data_offsets?.[1] ?? 0));
    return bytes.length === 8 + length + end;
  } catch {
    return false;
  }
}
