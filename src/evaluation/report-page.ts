/** An evaluation as a page for people: what was found, the numbers, the pictures. */
import { barChart } from '../charts/bar-chart.ts';
import { type Html, html } from '../charts/html.ts';
import { lineChart } from '../charts/line-chart.ts';
import { chartFigure, type PageSection, page, table } from '../charts/page.ts';
import type { Interval } from './bootstrap.ts';
import type {
  AttentionReport,
  DensityReport,
  EvaluationReport,
  StyleMixReport,
} from './evaluation-report.ts';
import { thumbnail } from './thumbnail.ts';

type Variant = EvaluationReport['variants'][number];

/** Three decimals with the interval behind. */
export function intervalText({ mean, low, high }: Interval): string {
  return `${mean.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})`;
}

/** One decimal, with the sign that text has. */
function decimal(value: number): string {
  return value.toFixed(1).replace('-', '−');
}

function signedText({ mean, low, high }: Interval): string {
  const signed = (value: number): string => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(3)}`;
  return `${signed(mean)} (${signed(low)} to ${signed(high)})`;
}

/** What the numbers say, in sentences: how every model stands to the first. */
export function verdict({ variants }: EvaluationReport): string {
  const [first, ...others] = variants;
  if (first === undefined) return '';
  const compared = (interval: Interval): string => {
    if (interval.low <= 0 && interval.high >= 0) return `${signedText(interval)}, no clear difference`;
    return `${signedText(interval)}, ${interval.mean < 0 ? 'lower' : 'higher'}`;
  };
  return [
    `“${first.name}”: image alignment ${first.image.mean.toFixed(3)}, text alignment ${first.text.mean.toFixed(3)}.`,
    ...others.map(
      ({ name, difference }) =>
        `“${name}” against it: image ${compared(difference!.image)}; text ${compared(difference!.text)}.`,
    ),
  ].join(' ');
}

function scores(report: EvaluationReport): PageSection {
  const { variants, referenceAlignment, settings } = report;
  const chart = (title: string, pick: (variant: Variant) => Interval): Html =>
    chartFigure(
      barChart({
        title,
        valueLabel: title,
        bars: variants.map((variant) => {
          const { mean, low, high } = pick(variant);
          return { label: variant.name, value: mean, low, high };
        }),
        format: (value) => value.toFixed(3),
      }),
      `${title}; bars carry 95 % intervals over prompts.`,
    );
  const rows = table(variants, [
    { heading: 'model', cell: ({ name }) => name },
    { heading: 'made of', cell: ({ description }) => description },
    { heading: 'drawn as', cell: ({ words }) => html`<code>${words}</code>` },
    { heading: 'image alignment', cell: ({ image }) => intervalText(image) },
    { heading: 'text alignment', cell: ({ text }) => intervalText(text) },
    {
      heading: `image, against ${variants[0]!.name}`,
      cell: ({ difference }) => (difference === null ? null : signedText(difference.image)),
    },
    {
      heading: `text, against ${variants[0]!.name}`,
      cell: ({ difference }) => (difference === null ? null : signedText(difference.text)),
    },
  ]);
  const ceiling =
    referenceAlignment === null
      ? ''
      : ` The reference pictures reach ${referenceAlignment.toFixed(3)} among themselves.`;
  return {
    heading: 'Scores',
    body: html`${rows}<p class="note">${settings.samples} pictures per model on ${Math.min(settings.samples, report.prompts.length)} prompts; image alignment: mean
cosine of CLIP embeddings with ${report.references.length} reference pictures; text alignment: cosine with the prompt without the concept.
Intervals: bootstrap over prompts, 95 %. Differences are paired by prompt and seed.${ceiling}</p>
${chart('CLIP image alignment', ({ image }) => image)}${chart('CLIP text alignment', ({ text }) => text)}`,
  };
}

async function pictures(report: EvaluationReport, folder: string): Promise<PageSection> {
  const { variants, prompts } = report;
  const rows: Html[] = [];
  for (const [i, first] of (variants[0]?.samples ?? []).entries()) {
    const cells: Html[] = [];
    for (const { name, samples } of variants) {
      const { file, imageAlignment, textAlignment } = samples[i]!;
      const image = await thumbnail(folder, file, `${name}, seed ${first.seed}`);
      cells.push(
        html`<td>${image}<span class="note">I ${imageAlignment.toFixed(3)} · T ${textAlignment.toFixed(3)}</span></td>`,
      );
    }
    rows.push(
      html`<tr><td>${prompts[first.prompt]!}<br><span class="note">seed ${first.seed}</span></td>${cells}</tr>\n`,
    );
  }
  const head = variants.map(({ name }) => html`<th>${name}</th>`);
  const references: Html[] = [];
  for (const file of report.references) {
    references.push(html`<figure>${await thumbnail(folder, file, file)}</figure>`);
  }
  return {
    heading: 'Pictures',
    body: html`<h3>References</h3><div class="grid">${references}</div><h3>Samples</h3>
<div class="scroll"><table class="pictures"><thead><tr><th>prompt</th>${head}</tr></thead><tbody>${rows}</tbody></table></div>`,
  };
}

async function styleMixSection(
  { a, b, order, points }: StyleMixReport,
  folder: string,
): Promise<PageSection> {
  const strip: Html[] = [];
  for (const { switched, files } of points) {
    const images: Html[] = [];
    for (const file of files) images.push(await thumbnail(folder, file, `${switched} layers read B`));
    strip.push(html`<figure>${images}<figcaption>${switched} of ${order.length}</figcaption></figure>`);
  }
  const line = (name: string, pick: (point: (typeof points)[number]) => number) => ({
    name,
    points: points.map((point) => ({ x: point.switched, y: pick(point) })),
  });
  const chart = lineChart({
    title: 'CLIP similarity against the number of layers switched',
    xLabel: 'cross-attention layers that read B, coarse to fine',
    yLabel: 'CLIP similarity',
    series: [line(`to A: ${a}`, ({ toA }) => toA), line(`to B: ${b}`, ({ toB }) => toB)],
  });
  return {
    heading: 'Layer-wise prompt mixing',
    body: html`<p>A: <code>${a}</code>; B: <code>${b}</code>. Layers in the order of switching: ${order.join(', ')}.</p>
<div class="grid">${strip}</div>${chartFigure(chart)}`,
  };
}

function densitySection(
  { encoder, bandwidth, words, vocabulary, embeddings }: DensityReport,
  several: boolean,
): PageSection {
  const rows = embeddings.map(({ concept, word, logDensity }) => {
    const sorted = [...logDensity].sort((a, b) => a - b);
    const mean = logDensity.reduce((sum, value) => sum + value, 0) / logDensity.length;
    return { concept, word, vectors: logDensity.length, mean, least: sorted[0]!, most: sorted.at(-1)! };
  });
  const layered = embeddings.filter(({ logDensity }) => logDensity.length > 1);
  const chart = lineChart({
    title: 'Log-density of layer embeddings',
    xLabel: 'cross-attention layer',
    yLabel: 'log-density among words',
    series: layered.map(({ concept, word, logDensity }) => ({
      name: `${concept} ${word}`,
      points: logDensity.map((y, x) => ({ x, y })),
    })),
  });
  return {
    heading: `Where the learned embeddings lie${several ? `: ${encoder}` : ''}`,
    body: html`<p>Log-density of each embedding among the ${words} words of the vocabulary (Gaussian kernels of width ${bandwidth.toPrecision(3)}).
Words themselves have ${vocabulary.low.toFixed(1)} to ${vocabulary.high.toFixed(1)} (5 % to 95 %), half of them more than ${vocabulary.median.toFixed(1)}.</p>
${table(rows, [
  { heading: 'concept', cell: (row) => row.concept },
  { heading: 'word', cell: (row) => html`<code>${row.word}</code>` },
  { heading: 'vectors', cell: (row) => row.vectors },
  { heading: 'mean', cell: (row) => row.mean, format: decimal },
  { heading: 'lowest', cell: (row) => row.least, format: decimal },
  { heading: 'highest', cell: (row) => row.most, format: decimal },
])}${layered.length === 0 ? null : chartFigure(chart)}`,
  };
}

async function attentionSection(
  { prompt, seed, picture, maps }: AttentionReport,
  folder: string,
): Promise<PageSection> {
  const figures: Html[] = [
    html`<figure>${await thumbnail(folder, picture, prompt)}<figcaption>the picture</figcaption></figure>`,
  ];
  for (const { word, height, width, layers, largest, mean, file } of maps) {
    const image = await thumbnail(folder, file, `attention on ${word}`);
    figures.push(
      html`<figure>${image}<figcaption><code>${word}</code> ${height} × ${width}, ${layers} layers; mean ${mean.toFixed(3)}, largest ${largest.toFixed(3)}</figcaption></figure>`,
    );
  }
  return {
    heading: 'Attention on the concept’s words',
    body: html`<p><code>${prompt}</code>, seed ${seed}. Share of cross-attention on each word, averaged over steps, heads and the layers of one resolution.</p><div class="grid">${figures}</div>`,
  };
}

/**
 * The whole page.
 * @param folder where the report's pictures lie
 * @throws {FormatError} if a picture is missing
 */
export async function evaluationPage(report: EvaluationReport, folder: string): Promise<string> {
  const { settings, scoring, styleMix, density, attention } = report;
  const perSecond = (1000 * scoring.pictures) / scoring.elapsedMs;
  const sections = [scores(report), await pictures(report, folder)];
  if (styleMix !== null) sections.push(await styleMixSection(styleMix, folder));
  if (attention !== null) sections.push(await attentionSection(attention, folder));
  for (const each of density ?? []) sections.push(densitySection(each, density!.length > 1));
  return page({
    title: `Evaluation of ${report.concept}`,
    summary: verdict(report),
    sections,
    footer:
      `edlora ${report.version}; base ${report.base}; CLIP ${report.clip}; ${settings.sampler}, ${settings.steps} steps, guidance ${settings.guidanceScale}, ` +
      `${settings.width} × ${settings.height}, seeds from ${settings.seed}; ${scoring.pictures} pictures scored at ${perSecond.toFixed(0)} a second.`,
  });
}
