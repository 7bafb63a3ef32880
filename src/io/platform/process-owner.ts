/**
 * Who owns a temporary file: a mark for names that tells, later and to any other process, whether its owner still runs.
 * Marks of another machine or container say nothing here, and count as alive. Node's; a bundle for the browser takes
 * `process-owner.browser.ts` in its place.
 */
import { createHash } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

/** The part of a name that `ownerMark` makes; its groups are where, process id and start time. */
export const OWNER_PATTERN = '([0-9a-f]{8})-(\\d+)-(\\d+)';

const owner = new RegExp(`^${OWNER_PATTERN}$`);

/** `<where>-<process id>-<start time>` of a process that runs here, by default this one: letters, digits and dashes. */
export function ownerMark(pid = process.pid): string {
  return `${where()}-${pid}-${startTime(pid) ?? 0}`;
}

/**
 * Whether the process of a mark still runs, as far as that can be told: an id that was given out again is told by its start
 * time where the system says it (Linux).
 */
export function ownerIsAlive(candidate: string): boolean {
  const parts = owner.exec(candidate);
  if (parts === null || parts[1] !== where()) return true;
  const pid = Number(parts[2]);
  if (pid === process.pid) return candidate === ownerMark();
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: there is one, of another user.
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  const start = startTime(pid);
  return start === null || String(start) === parts[3];
}

let place: string | undefined;

/** Machine, boot and process namespace: within one, process ids mean the same. */
function where(): string {
  place ??= createHash('sha256')
    .update([hostname(), bootId(), processNamespace()].join('\n'))
    .digest('hex')
    .slice(0, 8);
  return place;
}

function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8');
  } catch {
    return '';
  }
}

function processNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch {
    return '';
  }
}

/** In the system's ticks; -1 for a dead one; `null` where it does not say, or the process is gone. */
function startTime(pid: number): number | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name of the program, in brackets, may hold blanks and brackets itself.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    // A dead process that its parent has not asked about runs no more.
    return fields[0] === 'Z' || fields[0] === 'X' ? -1 : Number(fields[19]);
  } catch {
    return null;
  }
}
