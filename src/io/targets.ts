/**
 * What a job is about to write, checked before its work: no target is an input, however it is spelled or linked, and
 * nothing that stands there goes without the caller's word.
 */

import { UsageError } from '../errors.ts';
import { existsSync, lstatSync, readdirSync, realpathSync, statSync } from './platform/disk.ts';
import * as path from './platform/paths.ts';
import { placeOf } from './replace-file.ts';
import { checkReplaceableFolder } from './replace-folder.ts';
import { removeAbandoned } from './temporary-names.ts';

export interface TargetRules {
  /** Files and folders that the job reads. */
  readonly inputs: readonly string[];
  /** Whether what stands there may be replaced. */
  readonly force: boolean;
}

/**
 * A file that is written.
 * @throws {UsageError} if it is an input or exists and `force` is off; {EdloraError} if it is no ordinary file
 */
export function checkFileTarget(file: string, { inputs, force }: TargetRules): void {
  const { target, before } = placeOf(file);
  refuseInput(file, target, inputs);
  if (before !== null && !force)
    throw new UsageError(`${file}: exists; choose another name, or \`force\` to replace it`);
}

/**
 * A folder that is written as a whole.
 * @throws {UsageError} if it is an input, holds one or lies in one, if it exists and `force` is off, or if anything in it is
 *   not this tool's
 */
export function checkFolderTarget(folder: string, { inputs, force }: TargetRules): void {
  const target = realPath(path.resolve(folder));
  refuseInput(folder, target, inputs);
  for (const input of inputs) {
    const real = realPath(path.resolve(input));
    if (isInside(real, target)) {
      throw new UsageError(
        `${folder}: holds the input ${input}; inputs are never changed, choose another name`,
      );
    }
    if (isInside(target, real) && statSync(real, { throwIfNoEntry: false })?.isDirectory()) {
      throw new UsageError(
        `${folder}: lies in the input ${input}; inputs are never changed, choose another name`,
      );
    }
  }
  // One that a killed run had set aside stands there, too.
  removeAbandoned(path.dirname(path.resolve(folder)));
  const info = lstatSync(path.resolve(folder), { throwIfNoEntry: false });
  if (info === undefined || (info.isDirectory() && readdirSync(target).length === 0)) return;
  if (!force) throw new UsageError(`${folder}: exists; choose another name, or \`force\` to replace it`);
  checkReplaceableFolder(folder);
}

/**
 * A folder into which results go, beside what else is there.
 * @throws {UsageError} if it is a file, or holds something and `force` is off
 */
export function checkResultsFolder(folder: string, force: boolean): void {
  const info = statSync(path.resolve(folder), { throwIfNoEntry: false });
  if (info === undefined) return;
  if (!info.isDirectory()) throw new UsageError(`${folder}: expected a folder for the results, got a file`);
  removeAbandoned(path.resolve(folder));
  if (!force && readdirSync(path.resolve(folder)).length > 0) {
    throw new UsageError(
      `${folder}: exists and is not empty; choose another folder, or \`force\` to replace its files`,
    );
  }
}

/** @throws {UsageError} if what is to be written is one of the inputs, by any name, or is there already inside of one */
function refuseInput(named: string, target: string, inputs: readonly string[]): void {
  const own = identity(target);
  const input = inputs.find((file) => {
    const real = realPath(path.resolve(file));
    return real === target || (own !== null && (own === identity(real) || isInside(target, real)));
  });
  if (input !== undefined) {
    throw new UsageError(`${named}: is also an input; inputs are never changed, choose another name`);
  }
}

/** Device and number of what lies there: equal for hard links and for spellings that a disk does not tell apart. */
function identity(file: string): string | null {
  const info = statSync(file, { throwIfNoEntry: false, bigint: true });
  return info === undefined || info.ino === 0n ? null : `${info.dev}:${info.ino}`;
}

/** The real path of the longest part that exists, with the rest behind it. */
function realPath(file: string): string {
  if (existsSync(file)) return realpathSync(file);
  const above = path.dirname(file);
  return above === file ? file : path.join(realPath(above), path.basename(file));
}

function isInside(file: string, folder: string): boolean {
  const relative = path.relative(folder, file);
  return (
    relative !== '' &&
    !relative.startsWith(`..${path.sep}`) &&
    relative !== '..' &&
    !path.isAbsolute(relative)
  );
}
