/** Beside every test file, where its vitest is asked what tests enter: what of src ran, in V8's own words. */
import { writeFileSync } from 'node:fs';
import { Session } from 'node:inspector';
import path from 'node:path';
import { afterAll, expect } from 'vitest';
import { type EnteredScript, rawFile } from './entered-lines.ts';

/** How far vitest's own words in front of a module's code go. */
interface VitestWorker {
  readonly moduleExecutionInfo: ReadonlyMap<string, { readonly startOffset: number }>;
}

const session = new Session();
session.connect();
session.post('Profiler.enable');
session.post('Profiler.startPreciseCoverage', { callCount: false, detailed: true });

afterAll(() => {
  const { __vitest_worker__: worker } = globalThis as unknown as { __vitest_worker__: VitestWorker };
  session.post('Profiler.takePreciseCoverage', (error, coverage) => {
    if (error !== null) throw error;
    const scripts: EnteredScript[] = [];
    for (const { url, functions } of coverage.result) {
      const file = url.startsWith('file:') ? path.relative(process.cwd(), new URL(url).pathname) : url;
      if (!/^(src|cli)\//.test(file)) continue;
      const shift = worker.moduleExecutionInfo.get(path.resolve(file))?.startOffset ?? 0;
      const ranges = functions.flatMap((one) => one.ranges);
      scripts.push({
        file,
        ranges: ranges.map((one) => [one.startOffset - shift, one.endOffset - shift, one.count > 0]),
      });
    }
    writeFileSync(
      rawFile(path.relative(process.cwd(), expect.getState().testPath!)),
      JSON.stringify(scripts),
    );
  });
  session.disconnect();
});
