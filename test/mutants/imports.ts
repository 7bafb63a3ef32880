/** Which tests reach a source by imports, and over how many files. */
import { readFileSync } from 'node:fs';
import path from 'node:path';

/** `import … from './a.ts'`, `export … from`, `import('./a.ts')`; types alone run nothing. */
const IMPORTS =
  /^(?:import|export) (?!type\b)(?:[^;'"]*? from )?'(\.{1,2}\/[^']+)'|\bimport\('(\.{1,2}\/[^']+)'\)|\bmock\('(\.{1,2}\/[^']+)'/gm;

export class ImportGraph {
  /** By file, who imports it; paths from the root, with `/`. */
  readonly #importers = new Map<string, string[]>();

  /** @param files sources and tests, as paths from `root` */
  constructor(root: string, files: readonly string[]) {
    for (const file of files) {
      const text = readFileSync(path.join(root, file), 'utf8');
      for (const [, plain, dynamic, mocked] of text.matchAll(IMPORTS)) {
        const target = path.join(path.dirname(file), (plain ?? dynamic ?? mocked)!);
        const known = this.#importers.get(target);
        if (known === undefined) this.#importers.set(target, [file]);
        else known.push(file);
      }
    }
  }

  /** Test files that reach a source, each with the number of imports on the shortest way: 1 for those that import it. */
  testsOf(source: string): Map<string, number> {
    const distances = new Map([[path.normalize(source), 0]]);
    const tests = new Map<string, number>();
    for (const [file, distance] of distances) {
      for (const importer of this.#importers.get(file) ?? []) {
        if (distances.has(importer)) continue;
        // Maps are walked in the order of insertion, what is added meanwhile included.
        distances.set(importer, distance + 1);
        if (importer.endsWith('.test.ts')) tests.set(importer, distance + 1);
      }
    }
    return tests;
  }
}
