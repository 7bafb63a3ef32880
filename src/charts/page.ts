/** A report as one HTML file: no script, no network, light and dark, fit to print. */
import { type Html, html, markup } from './html.ts';

export interface PageSection {
  readonly heading: string;
  readonly body: Html;
}

export interface PageOptions {
  readonly title: string;
  /** One or two sentences under the title: what was found. */
  readonly summary?: Html | string;
  readonly sections: readonly PageSection[];
  /** What made the page, and from what. */
  readonly footer?: Html | string;
}

const STYLE = `
:root{color-scheme:light dark;--ink:#1c2126;--soft:#5d6770;--ground:#fff;--panel:#f4f6f8;--line:#d6dbe0;--good:#1a7f4b;--bad:#b3352b}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5af;--ground:#15191d;--panel:#1e242a;--line:#39424b;--good:#5cc795;--bad:#ef8379}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:24px 20px 60px;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:26px;line-height:1.2;margin:12px 0 4px}h2{font-size:19px;margin:34px 0 8px;border-bottom:1px solid var(--line);padding-bottom:4px}
h3{font-size:16px;margin:20px 0 6px}.summary{font-size:17px;margin:6px 0 12px}.note,footer,figcaption{color:var(--soft);font-size:13px}
nav{font-size:13px;margin:8px 0}nav a{color:inherit;margin-right:14px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;margin:8px 0}
th,td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{background:var(--panel);font-weight:600}td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:14px 0}figcaption{margin-top:4px}.good{color:var(--good)}.bad{color:var(--bad)}code{font-size:13px}
.grid{display:flex;flex-wrap:wrap;gap:10px}.grid figure{margin:0;max-width:170px}.grid img{display:block;width:128px;height:auto;image-rendering:pixelated;border:1px solid var(--line)}
.pictures img{display:block;width:112px;height:auto;image-rendering:pixelated}
footer{margin-top:40px;border-top:1px solid var(--line);padding-top:8px}
@media (max-width:600px){.wide .chart{max-width:none}}
@media print{body{max-width:none;padding:0;color:#000;background:#fff}nav{display:none}h2{break-after:avoid}figure,tr{break-inside:avoid}.scroll{overflow:visible}}
`;

/** The whole document. It may load nothing: its policy allows inline styles and embedded pictures only. */
export function page({ title, summary = '', sections, footer = '' }: PageOptions): string {
  const ids = sections.map((_, i) => `section-${i + 1}`);
  const links = sections.map(({ heading }, i) => html`<a href="#${ids[i]!}">${heading}</a>`);
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>${title}</title>
<style>${markup(STYLE)}</style>
</head>
<body>
<h1>${title}</h1>
${summary === '' ? null : html`<p class="summary">${summary}</p>`}
${sections.length > 2 ? html`<nav>${links}</nav>` : null}
${sections.map(({ heading, body }, i) => html`<section id="${ids[i]!}"><h2>${heading}</h2>${body}</section>\n`)}
${footer === '' ? null : html`<footer>${footer}</footer>`}
</body>
</html>
`.html;
}

export interface TableColumn<Row> {
  readonly heading: string;
  /** Numbers are set to the right; null leaves the cell empty. */
  readonly cell: (row: Row) => Html | string | number | null;
  /** Default three significant digits. */
  readonly format?: (value: number) => string;
}

/** A table with one line per row; columns whose every cell is a number or empty are set to the right. */
export function table<Row>(rows: readonly Row[], columns: readonly TableColumn<Row>[]): Html {
  const cells = rows.map((row) => columns.map(({ cell }) => cell(row)));
  const numeric = columns.map((_, j) =>
    cells.every((line) => line[j] === null || typeof line[j] === 'number'),
  );
  const kind = (j: number): Html => markup(numeric[j] ? ' class="number"' : '');
  const text = (value: Html | string | number | null, j: number): Html | string | null => {
    if (typeof value !== 'number') return value;
    return (columns[j]!.format ?? ((number: number) => String(Number(number.toPrecision(3)))))(value);
  };
  return html`<div class="scroll"><table><thead><tr>${columns.map(({ heading }, j) => html`<th${kind(j)}>${heading}</th>`)}</tr></thead>
<tbody>${cells.map((line) => html`<tr>${line.map((value, j) => html`<td${kind(j)}>${text(value, j)}</td>`)}</tr>\n`)}</tbody></table></div>`;
}

/** A chart made by this folder, with a caption. */
export function chartFigure(svg: string, caption = ''): Html {
  return html`<figure><div class="scroll">${markup(svg)}</div>${caption === '' ? null : html`<figcaption>${caption}</figcaption>`}</figure>`;
}

/** A map that narrow screens scroll instead of shrinking its names away. */
export const wideFigure = (svg: string, caption: string): Html =>
  html`<div class="wide">${chartFigure(svg, caption)}</div>`;
