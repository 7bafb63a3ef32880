/** A page has no package on its disk. The same names as in `package-root.ts`. */

export function packageRoot(): string {
  throw new Error('internal: a page has no folder of the package');
}

export const defaultBase = (): string => '/fixtures/tiny-world/model';

/** As in package.json. */
export const toolVersion = (): string => '0.1.0';

export const packageVersion = (_name: string): string => 'bundled';
