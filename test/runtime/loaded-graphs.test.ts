import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { add } from '../../src/graph/ops/elementwise.ts';
import { LoadedGraphs } from '../../src/runtime/loaded-graphs.ts';
import type { LoadedGraph, Runtime } from '../../src/runtime/runtime.ts';

/** A runtime that runs nothing and notes what is loaded and freed. */
function noting(events: string[], refuses: () => boolean = () => false): Runtime {
  return {
    traits: { name: 'noting' },
    load: async (graph, use, { threads } = {}): Promise<LoadedGraph> => {
      if (refuses()) throw new Error('refused');
      const [name] = graph.outputs.keys();
      events.push(`${name} for ${use} by ${threads}`);
      return {
        run: async () => ({}),
        dispose: async () => {
          events.push(`no ${name}`);
        },
      };
    },
    upload: () => {
      throw new Error('nothing is uploaded here');
    },
    dispose: async () => undefined,
  };
}

function graphOf(name: string) {
  const g = new GraphBuilder();
  const x = g.input('x', 'float32', [1]);
  g.output(name, add(g, x, x));
  return g.finish();
}

describe('loaded graphs', () => {
  it('frees the one used longest ago before it loads another', async () => {
    const events: string[] = [];
    const graphs = new LoadedGraphs(noting(events), 'training', { most: 2, threads: 3 });
    for (const key of ['a', 'b', 'a', 'c', 'a']) await graphs.get(key, () => graphOf(key));
    expect(events).toEqual(['a for training by 3', 'b for training by 3', 'no b', 'c for training by 3']);
    await graphs.dispose();
    expect(events.slice(4)).toEqual(['no c', 'no a']);
  });

  it('loads once for everybody who asks at the same time', async () => {
    const events: string[] = [];
    const graphs = new LoadedGraphs(noting(events), 'once');
    const [one, other] = await Promise.all(['a', 'a'].map((key) => graphs.get(key, () => graphOf(key))));
    expect(one).toBe(other);
    expect(events).toHaveLength(1);
  });

  it('asks again for a graph that was refused', async () => {
    const events: string[] = [];
    let refusals = 1;
    const graphs = new LoadedGraphs(
      noting(events, () => refusals-- > 0),
      'once',
      { most: 1 },
    );
    await expect(graphs.get('a', () => graphOf('a'))).rejects.toThrow('refused');
    await graphs.get('a', () => graphOf('a'));
    expect(events).toHaveLength(1);
    await graphs.dispose();
  });
});
