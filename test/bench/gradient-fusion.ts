/** One layer's fusion in closed form, beside PyTorch's L-BFGS over the rows (PYTHON names the interpreter). */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { fusionLoss } from '../../src/fusion/report/retention.ts';
import { factoriseInput, solveLayer } from '../../src/fusion/solvers/least-squares.ts';
import type { InputProblem, LayerProblem } from '../../src/fusion/solvers/problem.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { matmul } from '../../src/graph/ops/matmul.ts';
import { GramAccumulator } from '../../src/linalg/gram.ts';
import { lowRank } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import type { LoadedGraph } from '../../src/runtime/runtime.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import { PYTHON } from '../support/python.ts';
import { type Row, row, seconds } from './goal-table.ts';

/** Two concepts, 20 steps, 64 × 64 latents. */
const LAYER = { rows: 163_840, width: 320, rank: 4, iterations: 50 } as const;

/** One layer from the same features: our Gram matrices and solve, and the gradient method over the rows. */
export async function gradientRows(): Promise<{ rows: Row[]; note: string }> {
  const { rows: count, width: n, rank, iterations } = LAYER;
  const half = count / 2;
  const generator = new TorchGenerator(7);
  // A spectrum that falls by four orders, turned differently for each concept: features are never white.
  const features = [0, 1].map((concept) => {
    const x = generator.randn(half * n);
    for (let i = 0; i < x.length; i++) x[i]! *= 10 ** ((-4 * (((i % n) + concept * 40) % n)) / n);
    return x;
  });
  const random = (rows: number, cols: number) =>
    matrix(
      rows,
      cols,
      Float64Array.from(generator.randn(rows * cols), (value) => 0.05 * value),
    );
  const deltas = [0, 1].map(() => lowRank(random(n, rank), random(rank, n)));
  const session = await gramSession(half, n);
  const start = performance.now();
  const grams = [];
  for (const x of features) {
    const { gram } = await session.run({ x: float32([half, n], x) });
    const sum = new GramAccumulator(n);
    sum.addGram(gram!.data as Float32Array, half);
    grams.push(sum.toMatrix());
  }
  const solving = performance.now();
  const input: InputProblem = { inputName: 'layer', inputSize: n, grams, preserve: null, ridge: 1e-6 };
  const layer: LayerProblem = { layerName: 'layer', outputSize: n, deltas, input };
  const delta = solveLayer(factoriseInput(input), layer);
  const [totalMs, solveMs] = [performance.now() - start, performance.now() - solving];
  await session.dispose();
  const loss = fusionLoss(layer, delta, count);

  const folder = mkdtempSync(path.join(tmpdir(), 'edlora-bench-'));
  try {
    const file = path.join(folder, 'layer.safetensors');
    const y = new Float32Array(count * n);
    const projected = new Float64Array(rank);
    for (let i = 0; i < count; i++) {
      const concept = i < half ? 0 : 1;
      const { up, down } = deltas[concept]!;
      const from = (i % half) * n;
      for (let r = 0; r < rank; r++) {
        projected[r] = 0;
        for (let j = 0; j < n; j++) projected[r]! += down.data[r * n + j]! * features[concept]![from + j]!;
      }
      for (let j = 0; j < n; j++) {
        for (let r = 0; r < rank; r++) y[i * n + j]! += up.data[j * rank + r]! * projected[r]!;
      }
    }
    const x = new Float32Array(count * n);
    x.set(features[0]!);
    x.set(features[1]!, half * n);
    await writeSafetensors(file, [
      float32Tensor('x', [count, n], x),
      float32Tensor('y', [count, n], y),
      float32Tensor('w0', [n, n], new Float32Array(n * n)),
    ]);
    const script = path.join(packageRoot(), 'test', 'bench', 'fusion.py');
    const { status, stdout, error } = spawnSync(PYTHON, [script, file, String(iterations)], {
      encoding: 'utf8',
    });
    if (status !== 0) {
      const reason = error?.message ?? 'without torch and safetensors, or it failed';
      return { rows: [], note: `gradient fusion skipped: ${PYTHON} ${reason}` };
    }
    const theirs = JSON.parse(stdout.trim().split('\n').at(-1)!) as {
      elapsedMs: number;
      loss: number;
      evaluations: number;
      versions: string;
    };
    const ratio = theirs.elapsedMs / totalMs;
    return {
      rows: [
        row(
          `one layer, ${count} × ${n}: against PyTorch's L-BFGS`,
          `${seconds(totalMs)} : ${seconds(theirs.elapsedMs)}, ${ratio.toFixed(0)} ×`,
          '≥ 100 ×',
          ratio >= 100,
        ),
        row('of that, the solve', seconds(solveMs), '–', true),
        row(
          'loss, ours : theirs',
          `${loss.toExponential(3)} : ${theirs.loss.toExponential(3)}`,
          'no higher',
          loss <= theirs.loss,
        ),
      ],
      note: `L-BFGS: ${iterations} iterations, ${theirs.evaluations} evaluations, history 25, strong Wolfe; ${theirs.versions}`,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** XᵀX as a collection computes it. */
function gramSession(rows: number, n: number): Promise<LoadedGraph> {
  const g = new GraphBuilder();
  const x = g.input('x', 'float32', [rows, n]);
  g.output('gram', matmul(g, x, x, { transA: true }));
  return defaultRuntime().load(g.finish(), 'every-step');
}
