import { parseHTML } from 'linkedom';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { barChart } from '../../src/charts/bar-chart.ts';
import { heatMap } from '../../src/charts/heat-map.ts';
import { dataUri, html, markup } from '../../src/charts/html.ts';
import { lineChart } from '../../src/charts/line-chart.ts';
import { chartFigure, page, table } from '../../src/charts/page.ts';
import { scatterChart } from '../../src/charts/scatter-chart.ts';
import { SERIES_COLOURS, standaloneSvg } from '../../src/charts/svg.ts';

const TITLE = 'a <b> & "c"';

/** The SVG as a document; also proves that a strict XML reader (librsvg) takes it as a file of its own. */
async function drawn(svg: string) {
  const { width } = await sharp(Buffer.from(svg)).metadata();
  const root = parseHTML(`<!doctype html><html><body>${svg}</body></html>`).document.querySelector('svg');
  expect(root.getAttribute('width')).toBe(String(width));
  expect(root.getAttribute('aria-label')).toBe(TITLE);
  return {
    titles: [...root.querySelectorAll('title')].map((title: { textContent: string }) => title.textContent),
    texts: [...root.querySelectorAll('text')].map((text: { textContent: string }) => text.textContent),
    all: (selector: string): { getAttribute(name: string): string | null }[] => [
      ...root.querySelectorAll(selector),
    ],
  };
}

describe('heat map', () => {
  const options = {
    title: TITLE,
    rows: ['smiley', 'bullseye'],
    columns: ['text', 'cross', 'spatial'],
    values: [
      [0, 0.5, 1],
      [0.25, null, 3],
    ],
    domain: [0, 1] as const,
  };

  it('prints each value in its cell, names it in a tooltip, and clamps colours to the domain', async () => {
    const chart = await drawn(heatMap(options));
    expect(chart.titles).toContain('smiley · cross: 0.50');
    expect(chart.titles).toContain('bullseye · cross: none');
    expect(chart.texts).toEqual(expect.arrayContaining(['0.25', '3.00', 'smiley', 'spatial']));
    const cells = chart.all('[aria-label="cell"] rect').map((cell) => cell.getAttribute('fill'));
    // The empty cell is drawn apart, at the end.
    expect(cells[4]).toBe(cells[2]);
    expect(new Set(cells.slice(0, 5)).size).toBe(4);
  });

  it('leaves numbers and names to tooltips where cells are narrow', async () => {
    const columns = Array.from({ length: 100 }, (_, i) => `layer ${i}`);
    const chart = await drawn(
      heatMap({ title: TITLE, rows: ['a'], columns, values: [columns.map((_, i) => i / 7)] }),
    );
    expect(chart.titles).toContain('a · layer 7: 1.00');
    expect(chart.texts).toEqual(['a']);
  });
});

describe('line chart', () => {
  it('draws a line per series with its band and legend', async () => {
    const chart = await drawn(
      lineChart({
        title: TITLE,
        xLabel: 'layers',
        yLabel: 'similarity',
        series: [
          {
            name: 'A <1>',
            points: [0, 1, 2].map((x) => ({ x, y: x * x, low: x * x - 1, high: x * x + 1 })),
          },
          { name: 'B', points: [0, 1, 2].map((x) => ({ x, y: 4 - x })) },
        ],
      }),
    );
    expect(chart.all('[aria-label="line"] path').map((line) => line.getAttribute('stroke'))).toEqual(
      SERIES_COLOURS.slice(0, 2),
    );
    expect(chart.all('[aria-label="area"] path')).toHaveLength(1);
    expect(chart.texts).toEqual(expect.arrayContaining(['A <1>', 'B']));
    expect(chart.titles).toContain('A <1>: 2, 4');
  });

  it('leaves points that are not positive out of a log axis', async () => {
    const points = [-1, 0, 1, 10, 100].map((x) => ({ x, y: 1 }));
    const chart = await drawn(
      lineChart({ title: TITLE, xLabel: 'x', yLabel: 'y', xScale: 'log', series: [{ name: 's', points }] }),
    );
    expect(chart.titles).toEqual(['s: 1, 1', 's: 10, 1', 's: 100, 1']);
  });

  it('writes small numbers on a log axis as numbers, without unit prefixes', async () => {
    const points = [0.001, 0.01, 0.1].map((x) => ({ x, y: 1 }));
    const chart = await drawn(
      lineChart({ title: TITLE, xLabel: 'x', yLabel: 'y', xScale: 'log', series: [{ name: 's', points }] }),
    );
    expect(chart.texts).toContain('0.001');
    expect(chart.texts).not.toContain('1m');
  });
});

describe('bar chart', () => {
  it('draws groups in the order given, with intervals', async () => {
    const bars = [
      { label: 'single', series: 'CLIP-I', value: 0.8, low: 0.7, high: 0.85 },
      { label: 'fused', series: 'CLIP-I', value: 0.6 },
      { label: 'fused', series: 'CLIP-T', value: 0.3 },
    ];
    const chart = await drawn(barChart({ title: TITLE, bars, valueLabel: 'mean' }));
    expect(chart.titles).toContain('single · CLIP-I: 0.8 (0.7 to 0.85)');
    const [single, fused] = chart
      .all('[aria-label="bar"] rect')
      .map((bar) => Number(bar.getAttribute('width')));
    expect(fused! / single!).toBeCloseTo(0.6 / 0.8, 2);
    expect(chart.all('[aria-label="rule"] line').length).toBeGreaterThanOrEqual(1);
  });
});

describe('scatter chart', () => {
  it('names its points', async () => {
    const points = [
      { label: 'sum 0.5', series: 'sum', x: 0.4, y: 0.9 },
      { label: 'normal', series: 'normal', x: 0.8, y: 0.9 },
    ];
    const chart = await drawn(
      scatterChart({ title: TITLE, points, xLabel: 'identity', yLabel: 'other prompts' }),
    );
    expect(chart.texts).toEqual(expect.arrayContaining(['sum 0.5', 'normal']));
    expect(chart.all('[aria-label="dot"] circle')).toHaveLength(2);
  });
});

describe('a chart as a file', () => {
  it('brings its own ground', async () => {
    const svg = barChart({ title: TITLE, bars: [{ label: 'a', value: 1 }], valueLabel: 'v' });
    const { data } = await sharp(Buffer.from(standaloneSvg(svg)))
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    expect([...data.subarray(0, 3)]).toEqual([255, 255, 255]);
  });
});

describe('page', () => {
  it('escapes text, inserts markup, and lists sections', () => {
    const text = page({
      title: '<script>alert(1)</script>',
      summary: 'a & b',
      sections: ['One', 'Two', 'Three'].map((heading) => ({
        heading,
        body: html`<p>${heading}: ${'<i>'}</p>`,
      })),
    });
    expect(text).not.toContain('<script>');
    expect(text).toContain('&lt;script&gt;alert(1)&lt;/script&gt;');
    expect(text).toContain('<p>Two: &lt;i&gt;</p>');
    expect(text).toContain('<a href="#section-3">Three</a>');
    const { document } = parseHTML(text);
    expect(document.querySelectorAll('section')).toHaveLength(3);
  });

  it('names no address outside itself', () => {
    const chart = chartFigure(
      heatMap({ title: 't', rows: ['a'], columns: ['b'], values: [[1]] }),
      'a caption',
    );
    const picture = html`<img src="${dataUri(Uint8Array.of(1, 2, 3), 'image/png')}" alt="">`;
    const text = page({ title: 't', sections: [{ heading: 's', body: html`${chart}${picture}` }] });
    expect(text).toContain('src="data:image/png;base64,AQID"');
    expect(text.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(
      /https?:|url\(|@import|src="(?!data:)/,
    );
  });

  it('sets columns of numbers to the right and leaves null empty', () => {
    const rows = [
      { name: '<a>', share: 0.123456 as number | null },
      { name: 'b', share: null },
    ];
    const { html: text } = table(rows, [
      { heading: 'concept', cell: ({ name }) => name },
      { heading: 'kept', cell: ({ share }) => share, format: (value) => `${(100 * value).toFixed(1)} %` },
    ]);
    expect(text).toContain('<td>&lt;a&gt;</td><td class="number">12.3 %</td>');
    expect(text).toContain('<td>b</td><td class="number"></td>');
    expect(markup('<b>').html).toBe('<b>');
  });
});
