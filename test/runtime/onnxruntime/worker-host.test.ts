import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../../src/graph/builder.ts';
import type { Graph } from '../../../src/graph/graph.ts';
import { add } from '../../../src/graph/ops/elementwise.ts';
import { matmul } from '../../../src/graph/ops/matmul.ts';
import { OnnxRuntime } from '../../../src/runtime/onnxruntime/onnx-runtime.ts';
import { isShort } from '../../../src/runtime/onnxruntime/short-run.ts';
import { float32 } from '../../../src/tensor/tensor.ts';
import { builtProgram } from '../../support/built-program.ts';

/** x · Aᵏ: some seconds for n = 1024, k = 600. */
function powers(n: number, k: number): Graph {
  const g = new GraphBuilder();
  let x = g.input('x', 'float32', [n, n]);
  const a = g.input('a', 'float32', [n, n]);
  for (let i = 0; i < k; i++) x = matmul(g, x, a);
  g.output('y', x);
  g.output('twice', add(g, x, x));
  return g.finish();
}
const identity = (n: number, scale = 1) =>
  float32(
    [n, n],
    Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? scale : 0)),
  );

describe('a thread with networks', () => {
  it('returns what the caller asked for, where it asked for it, and leaves feeds as they are', async () => {
    const runtime = new OnnxRuntime();
    const graph = powers(4, 20);
    expect(isShort(graph)).toBe(false);
    const loaded = await runtime.load(graph, 'once');
    const feeds = { x: identity(4, 3), a: identity(4) };
    const twice = new Float32Array(16);
    const results = await loaded.run(feeds, ['twice'], { twice });
    expect(Object.keys(results)).toEqual(['twice']);
    expect(results.twice!.data).toBe(twice);
    expect([...twice]).toEqual([...identity(4, 6).data]);
    expect([...feeds.x.data]).toEqual([...identity(4, 3).data]);
    await loaded.dispose();
    await runtime.dispose();
  });

  it('keeps what was uploaded until it is disposed of', async () => {
    const runtime = new OnnxRuntime();
    const loaded = await runtime.load(powers(4, 20), 'every-step');
    const a = runtime.upload(identity(4, 1));
    for (const scale of [2, 5]) {
      const { y } = await loaded.run({ x: identity(4, scale), a });
      expect(y!.data[5]).toBe(scale);
    }
    a.dispose();
    await expect(loaded.run({ x: identity(4), a })).rejects.toThrow('disposed');
    await runtime.dispose();
  });

  it('says why a graph cannot be loaded, and goes on', async () => {
    const runtime = new OnnxRuntime();
    const graph = powers(4, 20);
    const broken = {
      ...graph,
      nodes: graph.nodes.map((node, i) =>
        i === 3 ? { ...node, inputs: [node.inputs[0]!, { ...node.inputs[0]!, name: 'missing' }] } : node,
      ),
    } as Graph;
    await expect(runtime.load(broken, 'once')).rejects.toThrow(
      /^onnxruntime could not load the graph: .*missing/,
    );
    const loaded = await runtime.load(graph, 'once');
    expect((await loaded.run({ x: identity(4), a: identity(4) })).y!.data[0]).toBe(1);
    await runtime.dispose();
  });

  it('is not waited for once a signal is aborted; others go on beside it', async () => {
    const runtime = new OnnxRuntime();
    const controller = new AbortController();
    const slow = await runtime.load(powers(1024, 200), 'once', { signal: controller.signal });
    const feeds = { x: identity(1024), a: identity(1024) };
    const run = slow.run(feeds);
    const reason = new Error('enough');
    const aborted = performance.now();
    setTimeout(() => controller.abort(reason), 50);
    await expect(run).rejects.toBe(reason);
    await slow.dispose();
    await expect(slow.run(feeds)).rejects.toBe(reason);
    const waited = performance.now() - aborted;
    const other = await runtime.load(powers(4, 20), 'once');
    expect((await other.run({ x: identity(4), a: identity(4) })).y!.data[0]).toBe(1);
    // The run takes some seconds.
    expect(waited).toBeLessThan(1000);
    await runtime.dispose();
  });

  it('lets the event loop turn', async () => {
    const runtime = new OnnxRuntime();
    const loaded = await runtime.load(powers(512, 200), 'once');
    let turns = 0;
    const timer = setInterval(() => turns++, 5);
    const start = performance.now();
    await loaded.run({ x: identity(512), a: identity(512) });
    clearInterval(timer);
    expect(turns).toBeGreaterThan((performance.now() - start) / 50);
    await runtime.dispose();
  });
});

describe('a process', () => {
  let folder: string;
  let source: string;
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'edlora-thread-'));
    source = pathToFileURL(path.join(path.dirname(builtProgram()), '..', 'src')).href;
  }, 120_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** Run a script that has a network of some seconds under way. */
  function ended(last: string) {
    const file = path.join(folder, 'script.mjs');
    writeFileSync(
      file,
      `import { GraphBuilder } from '${source}/graph/builder.js';
      import { matmul } from '${source}/graph/ops/matmul.js';
      import { defaultRuntime } from '${source}/runtime/default-runtime.js';
      import { networksRestWithin } from '${source}/runtime/onnxruntime/worker-host.js';
      const g = new GraphBuilder();
      let x = g.input('x', 'float32', [512, 512]);
      const a = x;
      for (let i = 0; i < 100; i++) x = matmul(g, x, a);
      g.output('y', x);
      const loaded = await defaultRuntime().load(g.finish(), 'once');
      const run = () => loaded.run({ x: { dtype: 'float32', shape: [512, 512], data: new Float32Array(512 * 512) } });
      const soon = () => new Promise((resolve) => setTimeout(resolve, 30));
      ${last}`,
    );
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, [file], { encoding: 'utf8' });
    return { status, signal, stdout, stderr };
  }

  it('ends by itself when nobody waits for a network', () => {
    expect(ended('await run(); console.log("done");')).toEqual({
      status: 0,
      signal: null,
      stdout: 'done\n',
      stderr: '',
    });
  });

  it('ends with its own code while one runs', () => {
    expect(ended('run(); await soon(); process.exit(7);')).toMatchObject({ status: 7, signal: null });
    expect(ended('run(); await soon(); throw new Error("mine");')).toMatchObject({ status: 1, signal: null });
  });

  it('can tell whether one does not come to rest, and begins no other', () => {
    const end = 'run(); run(); await soon(); console.log(networksRestWithin(1), networksRestWithin(1e5));';
    expect(ended(`${end} process.exit(3);`)).toMatchObject({ status: 3, stdout: 'false true\n' });
  });
});
