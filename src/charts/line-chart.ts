/** Quantities against a number: lines with marked points and, where known, bands of uncertainty. */
import * as Plot from '@observablehq/plot';
import { type ChartTitle, renderSvg, seriesColours } from './svg.ts';

export interface ChartPoint {
  readonly x: number;
  readonly y: number;
  /** Ends of the interval around y; a band is drawn where both are given. */
  readonly low?: number;
  readonly high?: number;
}

export interface LineSeries {
  readonly name: string;
  readonly points: readonly ChartPoint[];
}

export interface LineChartOptions extends ChartTitle {
  readonly series: readonly LineSeries[];
  readonly xLabel: string;
  readonly yLabel: string;
  /** Default linear. Points that are not positive are left out of a log axis. */
  readonly xScale?: 'linear' | 'log';
  readonly yScale?: 'linear' | 'log';
  /** Default: what the points span. */
  readonly yDomain?: readonly [number, number];
  /** Pixels; default 640 × 320. */
  readonly width?: number;
  readonly height?: number;
}

/** Draw a line chart as an SVG string, with a legend where there is more than one series. */
export function lineChart(options: LineChartOptions): string {
  const { series, xScale = 'linear', yScale = 'linear', width = 640, height = 320 } = options;
  const colours = seriesColours(series.map(({ name }) => name));
  const points = series
    .flatMap(({ name, points }) => points.map((point) => ({ ...point, name, colour: colours.get(name)! })))
    .filter(({ x, y }) => (xScale === 'linear' || x > 0) && (yScale === 'linear' || y > 0));
  const banded = points.filter(({ low, high }) => low !== undefined && high !== undefined);
  const channels = { x: 'x', z: 'name' } as const;
  return renderSvg(
    options,
    {
      width,
      height,
      marginLeft: 56,
      marginBottom: 38,
      x: { type: xScale, label: options.xLabel, nice: xScale === 'linear', ...plainTicks(xScale) },
      y: {
        type: yScale,
        label: options.yLabel,
        grid: true,
        nice: true,
        ...plainTicks(yScale),
        ...(options.yDomain ? { domain: options.yDomain } : {}),
      },
      color: { type: 'identity' },
      marks: [
        Plot.areaY(banded, { ...channels, y1: 'low', y2: 'high', fill: 'colour', fillOpacity: 0.15 }),
        Plot.lineY(points, { ...channels, y: 'y', stroke: 'colour', strokeWidth: 2 }),
        Plot.dot(points, {
          ...channels,
          y: 'y',
          fill: 'colour',
          r: points.length > 200 ? 0 : 3,
          title: ({ name, x, y }: (typeof points)[number]) => `${name}: ${x}, ${Number(y.toPrecision(4))}`,
        }),
      ],
    },
    colours.size > 1 ? [...colours].map(([label, colour]) => ({ label, colour })) : [],
  );
}

/** `0.001` and `1e-7` on log axes; the library's own choice would read `1m` and `100n`. */
const plainTicks = (scale: 'linear' | 'log'): { tickFormat?: string } =>
  scale === 'log' ? { tickFormat: '~g' } : {};
