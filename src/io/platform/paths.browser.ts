/** Paths where files are held in memory: those of POSIX. The same names as in `paths.ts`. */
import { currentFolder } from './machine.browser.ts';

export const sep = '/';

export const isAbsolute = (path: string): boolean => path.startsWith('/');

/** Steps without `.`, and with `..` only where nothing is in front of it. */
function stepsOf(path: string): string[] {
  const steps: string[] = [];
  for (const step of path.split('/')) {
    if (step === '' || step === '.') continue;
    if (step !== '..') steps.push(step);
    else if (steps.length > 0 && steps.at(-1) !== '..') steps.pop();
    else if (!isAbsolute(path)) steps.push(step);
  }
  return steps;
}

export function join(...parts: readonly string[]): string {
  const whole = parts.filter((part) => part !== '').join('/');
  if (whole === '') return '.';
  const path = (isAbsolute(whole) ? '/' : '') + stepsOf(whole).join('/');
  if (path === '') return whole.endsWith('/') ? './' : '.';
  return whole.endsWith('/') && path !== '/' ? `${path}/` : path;
}

export function resolve(...parts: readonly string[]): string {
  let path = '';
  for (const part of [currentFolder(), ...parts]) path = isAbsolute(part) ? part : `${path}/${part}`;
  return `/${stepsOf(path).join('/')}`;
}

export function relative(from: string, to: string): string {
  const [a, b] = [stepsOf(resolve(from)), stepsOf(resolve(to))];
  let shared = 0;
  while (shared < a.length && shared < b.length && a[shared] === b[shared]) shared++;
  return [...a.slice(shared).map(() => '..'), ...b.slice(shared)].join('/');
}

export function basename(path: string, ending = ''): string {
  const base = /([^/]*)\/*$/.exec(path)![1]!;
  return ending !== '' && base !== ending && base.endsWith(ending) ? base.slice(0, -ending.length) : base;
}

export function dirname(path: string): string {
  const [, dir, slashes] = /^(.*?)(\/*)[^/]*\/*$/s.exec(path)!;
  return dir !== '' ? dir! : slashes !== '' ? '/' : '.';
}

export function extname(path: string): string {
  return /^(?!\.\.$).+?(\.[^.]*)$/s.exec(basename(path))?.[1] ?? '';
}

export function parse(path: string): { root: string; dir: string; base: string; ext: string; name: string } {
  const [root, base, ext] = [isAbsolute(path) ? '/' : '', basename(path), extname(path)];
  const above = dirname(path);
  const dir = above === '.' && !/^\.\//.test(path) ? '' : base === '' ? root : above;
  return { root, dir, base, ext, name: base.slice(0, base.length - ext.length) };
}

export const posix = { basename, dirname, extname, isAbsolute, join, parse, relative, resolve, sep };
/** Of Windows' rules the one that tells a path from a name. */
export const win32 = { isAbsolute: (path: string): boolean => /^([A-Za-z]:)?[\\/]/.test(path) };
