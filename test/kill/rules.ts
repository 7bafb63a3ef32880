/** What must hold after a command was disturbed, and after it was run again. */
import path from 'node:path';
import type { Ended } from './child.ts';
import type { Job } from './jobs.ts';
import {
  asideIn,
  contentOf,
  differences,
  isTemporary,
  isWholeSafetensors,
  nameOfTemporary,
  part,
  type Snapshot,
} from './snapshot.ts';

/** Letters as in docs/reliability.md: whole results, untouched files, run again, what is said, no hang. */
export interface Fault {
  readonly rule: 'whole' | 'untouched' | 'again' | 'said' | 'hang';
  readonly what: string;
}

/** What a job's folder may hold. */
export interface Contents {
  readonly before: Snapshot;
  /** After undisturbed runs of the lines at work. */
  readonly done: readonly Snapshot[];
  readonly bystanders: Snapshot;
}

/** Names of results: neither the user's own files nor temporary ones. */
export function results(of: Snapshot, bystanders: Snapshot): Snapshot {
  return part(of, (name) => !bystanders.has(name) && !isTemporary(name));
}

/** Temporary files that are not those of a living process, which stand among the bystanders. */
export function temporaries(of: Snapshot, bystanders: Snapshot): string[] {
  return [...of.keys()].filter((name) => !bystanders.has(name) && isTemporary(name));
}

/** Under every final name: nothing, or all of the old content, or all of the new. */
export function checkWhole(job: Job, folder: string, after: Snapshot, contents: Contents): Fault[] {
  const { before, done, bystanders } = contents;
  const faults: Fault[] = [];
  const fault = (what: string): void => void faults.push({ rule: 'whole', what });
  const now = results(after, bystanders);
  const aside = new Map(
    [...after].flatMap(([name, entry]) => {
      const place = asideIn(name);
      return place === null ? [] : [[place, entry] as const];
    }),
  );
  const allowed = [before, ...done].map((state) => results(state, bystanders));
  const inUnit = (name: string): boolean =>
    (job.units ?? []).some((unit) => name.startsWith(`${unit}/`) || name === unit);
  for (const unit of job.units ?? []) {
    const own = (state: Snapshot): Snapshot => part(state, (name) => name.startsWith(`${unit}/`));
    const [present, old] = [own(now), own(allowed[0]!)];
    if (own(aside).size > 0 && differences(own(aside), old).length > 0) {
      fault(`${unit}: of the old one only a part is kept to be given back`);
    }
    if (present.size === 0) {
      if (old.size > 0 && differences(own(aside), old).length > 0) fault(`${unit}: the old one is lost`);
    } else if (!allowed.some((state) => differences(own(state), present).length === 0)) {
      const nearest = allowed
        .map((state) => differences(own(state), present))
        .reduce((best, list) => (list.length < best.length ? list : best));
      fault(`${unit}: neither the old one nor the new one: ${listed(nearest)} differ`);
    }
  }
  const wholeContents = new Set(done.flatMap((state) => [...state.values()].map(contentOf)));
  for (const name of new Set([...now.keys(), ...allowed[0]!.keys()])) {
    if (inUnit(name)) continue;
    const entry = now.get(name);
    const passing = job.passing?.test(name) === true;
    if (entry === undefined) {
      if (!passing) fault(`${name}: what stood there is lost`);
    } else if (allowed.some((state) => state.get(name) === entry)) continue;
    else if (passing) {
      if (name.endsWith('.safetensors') && !isWholeSafetensors(path.join(folder, name))) {
        fault(`${name}: a part of a file`);
      }
    } else if (job.numbered !== true || !wholeContents.has(contentOf(entry))) {
      fault(`${name}: neither the old nor the new content`);
    }
  }
  return faults;
}

/** Inputs and the user's own files have not changed. */
export function checkUntouched(before: Snapshot, after: Snapshot): Fault[] {
  return [...before]
    .filter(([name, entry]) => after.get(name) !== entry)
    .map(([name]) => ({ rule: 'untouched', what: `${name}: changed or gone` }));
}

/**
 * After the same line ran to its end: what an undisturbed run gives, and nothing temporary.
 * @param start what lay there when it started
 */
export function checkDone(job: Job, start: Snapshot, after: Snapshot, contents: Contents): Fault[] {
  const { done, bystanders } = contents;
  const faults: Fault[] = temporaries(after, bystanders).map((name) => ({
    rule: 'again',
    what: `${name}: temporary, and still there`,
  }));
  const [wanted, now] = [results(done[0]!, bystanders), results(after, bystanders)];
  if (job.numbered === true) {
    const added = (state: Snapshot, from: Snapshot): string[] =>
      [...state].filter(([name]) => !from.has(name)).map(([, entry]) => contentOf(entry));
    const expected = added(wanted, contents.before).sort();
    const got = added(now, start).sort();
    if (got.join() !== expected.join()) {
      faults.push({
        rule: 'again',
        what: `expected ${expected.length} pictures as an undisturbed run draws them, got ${got.length} files`,
      });
    }
    return faults;
  }
  const wrong = differences(wanted, now).filter((name) => job.spare?.test(name) !== true);
  if (wrong.length > 0) {
    faults.push({ rule: 'again', what: `${listed(wrong)}: not as an undisturbed run writes it` });
  }
  return faults;
}

/** A refusal or failure, in words a user can do something with. */
export function checkSaid({ code, err, out, struck }: Ended, job: Job): Fault[] {
  const faults: Fault[] = [];
  const fault = (what: string): void => void faults.push({ rule: 'said', what });
  const said = errorLine(err);
  if (code === null || code < 1 || code > 3) fault(`ended with ${code}: ${said}`);
  if (/a defect in edlora/.test(err)) fault(`called a defect: ${said}`);
  else if (said === '') fault(`no error line: ${err.trim().slice(-200)}`);
  if (/^\s+at .+:\d+:\d+\)?$/m.test(err + out)) fault('shows a stack');
  if (/\bE(NOSPC|IO|ACCES|MFILE)\b/.test(said)) fault(`in the words of the system: ${said}`);
  const parts = said.split(/[/\s:,;]+/);
  if (parts.some((name) => nameOfTemporary(name) !== null)) fault(`names a temporary file: ${said}`);
  else if (![job.out, ...namesOf(struck?.file)].some((name) => said.includes(name))) {
    fault(`does not name the file: ${said}`);
  }
  return faults;
}

/** What a signal's end must say. */
export function checkInterrupted({ err }: Ended): Fault[] {
  const faults: Fault[] = [];
  if (/a defect in edlora/.test(err))
    faults.push({ rule: 'said', what: `called a defect: ${errorLine(err)}` });
  if (!/\bkept\b|no half-written file was left|nothing was (written|changed)/.test(err)) {
    faults.push({ rule: 'said', what: `does not say what is kept: ${err.trim().slice(-200)}` });
  }
  return faults;
}

export const errorLine = (err: string): string =>
  err
    .split(/[\n\r]/)
    .map((line) => line.slice(Math.max(0, line.indexOf('error: '))))
    .filter((line) => line.startsWith('error: '))
    .at(-1) ?? '';

/** By what names a user knows a file: its own, or what its temporary name stands for; or its folder. */
function namesOf(file: string | undefined): string[] {
  if (file === undefined) return [];
  const own = path.basename(file);
  return [nameOfTemporary(own) ?? own, path.dirname(file)].filter((name) => name !== 'staging');
}

function listed(names: readonly string[]): string {
  return names.length <= 3
    ? names.join(', ')
    : `${names.slice(0, 3).join(', ')} and ${names.length - 3} more`;
}
