/** What a fusion's page says of what it cost and what it was made of. */
import { type Html, html } from '../../charts/html.ts';
import { type PageSection, table } from '../../charts/page.ts';
import type { FusionRecipe } from '../recipe.ts';
import { seconds } from './page-text.ts';
import type { FusionReport } from './report.ts';

export function costSection({
  stages,
  elapsedMs,
  collectMs,
  peakMemoryBytes,
  concepts,
  statistics,
  preservedCaptions,
}: FusionReport): PageSection {
  return {
    heading: 'What it cost',
    body: html`<p>${seconds(elapsedMs)} in all, ${seconds(collectMs)} of them for features; ${(peakMemoryBytes / 1e6).toFixed(0)} MB of memory at most.
${preservedCaptions} captions were preserved.</p>${table(stages, [
      { heading: 'stage', cell: ({ stage }) => stage },
      { heading: 'layers', cell: ({ layers }) => layers },
      { heading: 'solved in', cell: ({ elapsedMs: own }) => seconds(own) },
    ])}${table(
      concepts.map(({ name }, i) => ({ name, origin: statistics[i] ?? '' })),
      [
        { heading: 'concept', cell: ({ name }) => name },
        { heading: 'features', cell: ({ origin }) => origin },
      ],
    )}`,
  };
}

export function recipeSection({ base, concepts, options, captions }: FusionRecipe): PageSection {
  const files = [
    ...base.files.map((file) => ({ of: 'base', ...file })),
    ...concepts.flatMap(({ name, files: own }) => own.map((file) => ({ of: name, ...file }))),
  ];
  const settings = Object.entries(options).map(([name, value]) => ({
    name,
    value: typeof value === 'object' ? JSON.stringify(value) : String(value),
  }));
  const hash = (sha256: string): Html => html`<code title="${sha256}">${sha256.slice(0, 16)}…</code>`;
  return {
    heading: 'What it was made of',
    body: html`${table(files, [
      { heading: 'of', cell: ({ of }) => of },
      { heading: 'file', cell: ({ path }) => path },
      { heading: 'SHA-256', cell: ({ sha256 }) => hash(sha256) },
    ])}${table(
      concepts.map((concept) => ({ ...concept, words: concept.words.join(' ') })),
      [
        { heading: 'concept', cell: ({ name }) => name },
        { heading: 'words', cell: ({ words }) => words },
        { heading: 'strength, UNet', cell: ({ unetStrength }) => unetStrength },
        { heading: 'strength, text encoder', cell: ({ textEncoderStrength }) => textEncoderStrength },
      ],
    )}${table(settings, [
      { heading: 'option', cell: ({ name }) => name },
      { heading: 'value', cell: ({ value }) => value },
    ])}<p class="note">Captions preserved: ${captions.map((caption) => `“${caption}”`).join(', ') || 'none'}.</p>`,
  };
}
