/** The program and the tools as processes run them. What did not change since is not compiled again. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../../src/package-root.ts';

/**
 * Compile sources and tools.
 * @returns where one of them lies
 */
export function built(name: string): string {
  const root = packageRoot();
  const compiler = path.join(root, 'node_modules/typescript/bin/tsc');
  spawnSync(process.execPath, [compiler, '-p', 'tsconfig.tools.json'], { cwd: root });
  const program = path.join(root, '.build', name);
  if (!existsSync(program)) throw new Error(`${program}: not built`);
  return program;
}

/** The command line. */
export const builtProgram = (): string => built('cli/main.js');
