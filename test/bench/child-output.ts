/** What a program that a bench starts has to say. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';

/** The last line of a child's output, or why there is none. */
export function childOutput<T>(command: string, args: readonly string[]): T | string {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (error !== undefined) return `${command}: ${error.message}`;
  if (status !== 0) return `${path.basename(command)} failed: ${stderr.trim().split('\n').at(-1) ?? ''}`;
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as T;
}
