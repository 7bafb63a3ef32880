/** One quantity of several things side by side: horizontal bars, in groups, with intervals. */
import * as Plot from '@observablehq/plot';
import { type ChartTitle, renderSvg, seriesColours, textWidth } from './svg.ts';

export interface Bar {
  /** What the bar stands for; bars of the same label form a group. */
  readonly label: string;
  /** Which of the group it is; gives the colour. */
  readonly series?: string;
  readonly value: number;
  /** Ends of the interval around the value; drawn where both are given. */
  readonly low?: number;
  readonly high?: number;
}

export interface BarChartOptions extends ChartTitle {
  readonly bars: readonly Bar[];
  readonly valueLabel: string;
  /** Default: from zero to the largest value or interval. */
  readonly domain?: readonly [number, number];
  /** Default three significant digits. */
  readonly format?: (value: number) => string;
  /** Pixels; default 640. */
  readonly width?: number;
}

/** Draw a bar chart as an SVG string, groups and bars in the order given. */
export function barChart(options: BarChartOptions): string {
  const { bars, width = 640, format = (value) => String(Number(value.toPrecision(3))) } = options;
  const labels = [...new Set(bars.map(({ label }) => label))];
  const colours = seriesColours(bars.map(({ series = '' }) => series));
  const rows = bars.map((bar) => ({
    ...bar,
    name: bar.series ?? '',
    colour: colours.get(bar.series ?? '')!,
  }));
  const intervals = rows.filter(({ low, high }) => low !== undefined && high !== undefined);
  const place = { fy: 'label', y: 'name' } as const;
  const marginLeft = Math.max(...labels.map(textWidth), 0) + 16;
  const groupHeight = 8 + 17 * colours.size;
  return renderSvg(
    options,
    {
      width,
      height: 58 + groupHeight * labels.length,
      marginLeft,
      marginRight: 44,
      marginBottom: 38,
      x: {
        label: options.valueLabel,
        grid: true,
        nice: true,
        ...(options.domain ? { domain: options.domain } : {}),
      },
      y: { axis: null, domain: [...colours.keys()], padding: 0.12 },
      fy: { domain: labels, label: null, axis: 'left', padding: 0.12 },
      color: { type: 'identity' },
      marks: [
        Plot.barX(rows, {
          ...place,
          x: 'value',
          fill: 'colour',
          title: ({ label, series, value, low, high }: (typeof rows)[number]) =>
            `${label}${series === undefined ? '' : ` · ${series}`}: ${format(value)}` +
            (low === undefined || high === undefined ? '' : ` (${format(low)} to ${format(high)})`),
        }),
        Plot.ruleY(intervals, { ...place, x1: 'low', x2: 'high', stroke: 'currentColor', strokeWidth: 1.5 }),
        Plot.text(rows, {
          ...place,
          x: (bar: (typeof rows)[number]) => Math.max(bar.value, bar.high ?? bar.value),
          text: ({ value }: (typeof rows)[number]) => format(value),
          textAnchor: 'start',
          dx: 5,
        }),
        Plot.ruleX([0], { strokeOpacity: options.domain && options.domain[0] > 0 ? 0 : 0.5 }),
      ],
    },
    colours.size > 1 ? [...colours].map(([label, colour]) => ({ label, colour })) : [],
  );
}
