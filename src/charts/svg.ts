/** The one place that knows the charting library: a plot becomes an SVG string, without a browser. */
import * as Plot from '@observablehq/plot';
import { DOMParser } from 'linkedom';
import { visibleLines } from '../visible.ts';

const NAMESPACE = 'http://www.w3.org/2000/svg';

/** Colour-blind-safe hues that hold on light and dark grounds, in order of use. */
export const SERIES_COLOURS = [
  '#3d7fd6',
  '#e08214',
  '#2f9e6e',
  '#c4478f',
  '#8a6bd1',
  '#b5a016',
  '#3aa6b9',
  '#c0513f',
  '#7d8794',
  '#6b8f23',
] as const;

/** What is told to those who do not see the chart. */
export interface ChartTitle {
  readonly title: string;
}

/** An entry above a chart: which colour means what. */
export interface LegendEntry {
  readonly label: string;
  readonly colour: string;
}

/** Width in pixels that a label of this length takes at most in the charts' 11 px type. */
export function textWidth(text: string): number {
  return Math.ceil(text.length * 6.4);
}

/**
 * Draw a plot. The SVG stands alone or inside a page: its ink follows the page's text colour, its ground stays clear.
 * @param legend drawn in rows above the plot; empty for none
 * @returns `<svg …>…</svg>`
 */
export function renderSvg(
  { title }: ChartTitle,
  options: Plot.PlotOptions,
  legend: readonly LegendEntry[] = [],
): string {
  // An XML document: an HTML one would leave & and < in attributes as they are, and SVG files would not open.
  const document = new DOMParser().parseFromString(`<svg xmlns="${NAMESPACE}"/>`, 'image/svg+xml');
  const width = options.width ?? 640;
  // The vertical axis is labelled at the very top; the legend goes below that.
  const entries = placeLegend(legend, width, options.y?.label ? 20 : 2);
  const legendHeight = entries.length === 0 ? 0 : entries.at(-1)!.y + 18;
  const svg = Plot.plot({
    ...options,
    width,
    marginTop: (options.marginTop ?? 20) + legendHeight,
    className: 'chart',
    document,
  });
  svg.setAttribute('xmlns', NAMESPACE);
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', title);
  // Plot's own rule paints the ground white for its tips; pages have their own ground.
  svg.querySelector('style').textContent =
    '.chart{display:block;max-width:100%;height:auto;overflow:visible}.chart text{font:11px system-ui,sans-serif;white-space:pre}';
  for (const { label, colour, x, y } of entries) {
    const box = document.createElementNS(NAMESPACE, 'rect', null);
    for (const [name, value] of Object.entries({ x, y, width: 11, height: 11, rx: 2, fill: colour })) {
      box.setAttribute(name, String(value));
    }
    const text = document.createElementNS(NAMESPACE, 'text', null);
    for (const [name, value] of Object.entries({
      x: x + 16,
      y: y + 10,
      'text-anchor': 'start',
      fill: 'currentColor',
    })) {
      text.setAttribute(name, String(value));
    }
    text.textContent = label;
    svg.append(box, text);
  }
  return visibleLines(svg.outerHTML);
}

/** Left to right, in as many rows as needed. */
function placeLegend(
  legend: readonly LegendEntry[],
  width: number,
  top: number,
): (LegendEntry & { x: number; y: number })[] {
  let [x, y] = [4, top];
  return legend.map((entry) => {
    const needed = 16 + textWidth(entry.label) + 14;
    if (x > 4 && x + needed > width) [x, y] = [4, y + 18];
    const placed = { ...entry, x, y };
    x += needed;
    return placed;
  });
}

/** Colours of series in order of first appearance. */
export function seriesColours(names: Iterable<string>): Map<string, string> {
  const colours = new Map<string, string>();
  for (const name of names) {
    if (!colours.has(name)) colours.set(name, SERIES_COLOURS[colours.size % SERIES_COLOURS.length]!);
  }
  return colours;
}

/** The chart for a file of its own, shown as a picture: with a white ground, as it cannot take the page's colours. */
export function standaloneSvg(svg: string): string {
  return svg.replace(
    /^<svg ([^>]*)>/,
    '<svg style="color:#1c2126" $1><rect width="100%" height="100%" fill="#fff"/>',
  );
}
