import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { packageRoot } from '../../src/package-root.ts';
import { codeOnly } from './code-only.ts';
import { mutationsOf, planted } from './mutations.ts';

const faults = (source: string): string[] =>
  mutationsOf(source).map(({ from, to, operator }) => `${operator}: ${from} → ${to}`);

describe('faults', () => {
  it('are bounds, signs, conditions, numbers, defaults, dropped calls and early returns', () => {
    expect(faults('  return a < b;')).toEqual(['comparison: < → <=', 'comparison: < → >=']);
    expect(faults('  x = a * b - c;')).toEqual(['operator: * → /', 'operator: - → +']);
    expect(faults('  if (ready) stop = now;')).toEqual(['condition: ready → !(ready)']);
    expect(faults('function f(x = 3, y = true) {')).toEqual(['number: 3 → 4', 'default: true → false']);
    expect(faults('  await this.#save(state);')).toEqual(['dropped call: await this.#save(state); → ;']);
    expect(faults('function f(): void {\n}')).toEqual(['early return:  →  return;']);
  });

  it('are not planted in comments, texts, patterns, types and imports', () => {
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a source, whose template is one
    const template = '`1 < 2 ${f(`${{ x: 1 }}`)} 4`';
    const source = [
      "import { a as b } from './x-1.ts';",
      '/** a < b, 3 */ // if (x) - y',
      `const text = 'a < b' + "3" + ${template};`,
      'const pattern = /[/] < 3 (?=if \\()/g;',
      'export interface Shape<T> {\n  readonly size: 3 | 4;\n  at(x: { y: 1 }): 2;\n}',
      "export type Kind = 'a' | { n: 5; m: [6, 7] };",
      '',
    ].join('\n');
    expect(codeOnly(source)).toHaveLength(source.length);
    expect(faults(source)).toEqual([]);
  });

  it('stand on the line that they name, and change one place', () => {
    const source = 'const a = 1;\nconst b = a + 2;\n';
    const [, sum] = mutationsOf(source);
    expect(sum).toMatchObject({ line: 2, from: '+', to: '-' });
    expect(planted(source, sum!)).toBe('const a = 1;\nconst b = a - 2;\n');
  });

  it('divisions are no patterns', () => {
    expect(faults('  const y = (a + b) / c / (d - e);')).toEqual([
      'operator: + → -',
      'operator: / → *',
      'operator: / → *',
      'operator: - → +',
    ]);
  });

  it('are many in a file of formulas', () => {
    const source = readFileSync(path.join(packageRoot(), 'src/linalg/cholesky.ts'), 'utf8');
    const operators = new Set(mutationsOf(source).map(({ operator }) => operator));
    expect(mutationsOf(source).length).toBeGreaterThan(40);
    expect(operators).toContain('comparison');
    expect(operators).toContain('condition');
  });
});
