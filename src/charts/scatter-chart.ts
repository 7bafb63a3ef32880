/** Two quantities of several things against each other: named points. */
import * as Plot from '@observablehq/plot';
import { type ChartTitle, renderSvg, seriesColours } from './svg.ts';

export interface ScatterPoint {
  readonly label: string;
  readonly series?: string;
  readonly x: number;
  readonly y: number;
}

export interface ScatterChartOptions extends ChartTitle {
  readonly points: readonly ScatterPoint[];
  readonly xLabel: string;
  readonly yLabel: string;
  readonly xDomain?: readonly [number, number];
  readonly yDomain?: readonly [number, number];
  /** Write each point's label beside it; default: up to 30 points. */
  readonly labels?: boolean;
  /** Pixels; default 640 × 400. */
  readonly width?: number;
  readonly height?: number;
}

/** Draw a scatter chart as an SVG string. */
export function scatterChart(options: ScatterChartOptions): string {
  const { points, width = 640, height = 400, labels = points.length <= 30 } = options;
  const colours = seriesColours(points.map(({ series = '' }) => series));
  const dots = points.map((point) => ({ ...point, colour: colours.get(point.series ?? '')! }));
  const domain = (range: readonly [number, number] | undefined) => (range ? { domain: range } : {});
  return renderSvg(
    options,
    {
      width,
      height,
      marginLeft: 56,
      marginRight: 60,
      marginBottom: 38,
      x: { label: options.xLabel, grid: true, nice: true, ...domain(options.xDomain) },
      y: { label: options.yLabel, grid: true, nice: true, ...domain(options.yDomain) },
      color: { type: 'identity' },
      marks: [
        Plot.dot(dots, {
          x: 'x',
          y: 'y',
          fill: 'colour',
          r: 4,
          title: ({ label, x, y }: ScatterPoint) =>
            `${label}: ${Number(x.toPrecision(4))}, ${Number(y.toPrecision(4))}`,
        }),
        ...(labels
          ? [
              Plot.text(dots, {
                x: 'x',
                y: 'y',
                text: 'label',
                textAnchor: 'start',
                dx: 7,
                fillOpacity: 0.85,
              }),
            ]
          : []),
      ],
    },
    colours.size > 1 ? [...colours].map(([label, colour]) => ({ label, colour })) : [],
  );
}
