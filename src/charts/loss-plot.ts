/** The losses of a training run, drawn. */

/** One step of a run. */
export interface LossOfStep {
  /** From 1. */
  readonly step: number;
  readonly loss: number;
}

/** Points of a plot at most; more are averaged. */
const PLOT_POINTS = 200;

/** Loss by step: single steps where few, means of neighbours where many, and a running mean. */
export async function lossPlot(log: readonly LossOfStep[]): Promise<string> {
  // The charting library costs half a second: not at the start of every command.
  const { lineChart } = await import('./line-chart.ts');
  const bin = Math.max(1, Math.ceil(log.length / PLOT_POINTS));
  const points = Array.from({ length: Math.ceil(log.length / bin) }, (_, i) => {
    const own = log.slice(i * bin, (i + 1) * bin);
    return { x: own.at(-1)!.step, y: own.reduce((sum, { loss }) => sum + loss, 0) / own.length };
  });
  let mean = points[0]?.y ?? 0;
  const smooth = points.map(({ x, y }) => {
    mean = 0.9 * mean + 0.1 * y;
    return { x, y: mean };
  });
  return lineChart({
    title: 'Loss',
    series: [
      { name: bin === 1 ? 'loss' : `mean of ${bin} steps`, points },
      { name: 'running mean', points: smooth },
    ],
    xLabel: 'step',
    yLabel: 'loss',
  });
}
