/**
 * How a file that people share names other files: relative to itself where both lie in one part of the disk, by the name
 * alone where they do not. What it never says is where a user's folders are, or what the user is called.
 */
import { existsSync } from './platform/disk.ts';
import { homeFolder } from './platform/machine.ts';
import * as path from './platform/paths.ts';

/** Folders whose next level is users' names. */
const USERS = /^(\/|[A-Za-z]:\\)(home|Users)$/i;

/**
 * A path as seen from a folder, with slashes; `null` if what they share is no more than the root of the disk or the folder
 * of all users.
 * @param file   absolute
 * @param folder absolute
 */
export function relativeRecord(file: string, folder: string): string | null {
  const relative = path.relative(folder, file);
  if (relative === '') return '.';
  // On another drive.
  if (path.isAbsolute(relative)) return null;
  let shared = folder;
  for (const step of relative.split(path.sep)) {
    if (step !== '..') break;
    shared = path.dirname(shared);
  }
  if (shared !== folder) {
    const home = homeFolder();
    const isRoot = path.parse(shared).root === shared;
    if (isRoot || USERS.test(shared) || (isWithin(file, home) && !isWithin(shared, home))) return null;
  }
  return relative.split(path.sep).join('/');
}

/** As `relativeRecord`, by the name alone where that gives none. */
export function recordedPath(file: string, folder: string): string {
  return relativeRecord(file, folder) ?? path.basename(file);
}

/** A file or folder and the files that belong to it, all as seen from a folder; those inside of it keep their places. */
export function recordedFiles(
  unit: { readonly path: string; readonly files: readonly string[] },
  folder: string,
): { path: string; files: string[] } {
  const own = recordedPath(unit.path, folder);
  const files = unit.files.map((file) =>
    isWithin(file, unit.path)
      ? path.posix.join(own, path.relative(unit.path, file).split(path.sep).join('/'))
      : recordedPath(file, folder),
  );
  return { path: own, files };
}

/** Where a recorded path may be now: an absolute one there, any other as seen from each folder in turn. */
export function placesOf(recorded: string, folders: readonly string[]): string[] {
  if (path.isAbsolute(recorded)) return [recorded];
  const own = recorded.replaceAll('\\', '/');
  return [...new Set(folders.map((folder) => path.resolve(folder, own)))];
}

/** The first place that there is, else the first. */
export function placeOfRecord(recorded: string, folders: readonly string[]): string {
  const places = placesOf(recorded, folders);
  return places.find((place) => existsSync(place)) ?? places[0]!;
}

function isWithin(file: string, folder: string): boolean {
  const relative = path.relative(folder, file);
  return relative === '' || !(/^\.\.(?:[\\/]|$)/.test(relative) || path.isAbsolute(relative));
}
