import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ImportGraph } from './imports.ts';

const files = {
  'src/sum.ts': 'export const sum = 1;\n',
  'src/mean.ts': "import {\n  sum,\n} from './sum.ts';\nexport const mean = sum;\n",
  'src/index.ts': "export { mean } from './mean.ts';\n",
  'src/types.ts': "import type { sum } from './sum.ts';\nexport type { mean } from './mean.ts';\n",
  'test/sum.test.ts': "import { sum } from '../src/sum.ts';\n",
  'test/index.test.ts': "import { mean } from '../src/index.ts';\n",
  'test/late.test.ts': "const { mean } = await import('../src/mean.ts');\n",
  'test/types.test.ts': "import type { sum } from '../src/sum.ts';\nimport '../src/types.ts';\n",
};
let root: string;
beforeAll(() => {
  root = mkdtempSync(path.join(tmpdir(), 'edlora-imports-'));
  for (const folder of ['src', 'test']) mkdirSync(path.join(root, folder));
  for (const [file, text] of Object.entries(files)) writeFileSync(path.join(root, file), text);
});
afterAll(() => rmSync(root, { recursive: true }));

describe('tests that reach a source', () => {
  it('are those that import it, at once or over other files, and not for its types alone', () => {
    const graph = new ImportGraph(root, Object.keys(files));
    expect(graph.testsOf('src/sum.ts')).toEqual(
      new Map([
        ['test/sum.test.ts', 1],
        ['test/late.test.ts', 2],
        ['test/index.test.ts', 3],
      ]),
    );
    expect(graph.testsOf('src/index.ts')).toEqual(new Map([['test/index.test.ts', 1]]));
  });
});
