/** Time that processes have worked. By the clock alone a busy machine looks like a test that never ends. */
import { readdirSync, readFileSync } from 'node:fs';

/** Of a second: what Linux counts in. */
const TICK = 1 / 100;

/** CPU seconds of all living processes of a group; where there is no /proc, those of the clock. */
export function cpuSeconds(group: number): number {
  let ticks = 0;
  try {
    for (const name of readdirSync('/proc')) if (/^\d+$/.test(name)) ticks += ticksOf(name, group);
  } catch {
    return performance.now() / 1000;
  }
  return ticks * TICK;
}

function ticksOf(id: string, group: number): number {
  try {
    // proc(5): after the name in parentheses come state, parent, group; user and system time are the 12th and 13th.
    const fields = readFileSync(`/proc/${id}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ')
      .map(Number);
    return fields[2] === group ? fields[11]! + fields[12]! : 0;
  } catch {
    return 0;
  }
}
