/** The program as a process runs it: compiled once for all tests of a file. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../../src/package-root.ts';

/** Compile, and say where the command line lies. */
export function builtProgram(): string {
  const root = packageRoot();
  const compiler = path.join(root, 'node_modules/typescript/bin/tsc');
  spawnSync(process.execPath, [compiler, '-p', 'tsconfig.tools.json'], { cwd: root });
  const program = path.join(root, '.build', 'cli', 'main.js');
  if (!existsSync(program)) throw new Error(`${program}: not built`);
  return program;
}
