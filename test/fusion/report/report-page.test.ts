/** A fusion's report for people: what it says, and that it stands alone. */
import { describe, expect, it } from 'vitest';
import { refinementMeans } from '../../../src/fusion/report/course-sections.ts';
import { shortLayerName } from '../../../src/fusion/report/page-text.ts';
import type { FusionReport, LayerReport } from '../../../src/fusion/report/report.ts';
import { fusionReportPage } from '../../../src/fusion/report/report-page.ts';
import { fusionVerdict, refinementAdvice, worstCollision } from '../../../src/fusion/report/verdict.ts';

const NONE = { text: null, cross: null, spatial: null };

function layer(
  layerName: string,
  kept: readonly (number | null)[],
  extra: Partial<LayerReport> = {},
): LayerReport {
  return {
    stage: 'spatial',
    layerName,
    rank: 8,
    kept,
    loss: 1e-4,
    relativeChange: 1.5,
    crosstalk: kept.map((_, i) => kept.map((_, j) => (i === j ? 1 : 0.5))),
    preservedChange: 0.01,
    condition: 160,
    truncation: null,
    losses: null,
    ...extra,
  };
}

function report(shares: readonly number[], extra: Partial<FusionReport> = {}): FusionReport {
  return {
    concepts: shares.map((kept, i) => ({
      name: `<word${i}>`,
      file: `/w${i}.pth`,
      kept: { ...NONE, spatial: kept },
      baselines: { average: { ...NONE, spatial: 0.4 }, sum: { ...NONE, spatial: -2 } },
      worst: null,
    })),
    stages: [
      {
        stage: 'spatial',
        layers: 1,
        method: 'normal',
        ridge: 0.01,
        preserve: 0.02,
        choices: { ridge: null, preserve: null },
        largestChange: 1.5,
        elapsedMs: 100,
      },
    ],
    layers: [layer('mid_block.attentions.0.transformer_blocks.0.attn1.to_q', shares)],
    collisions: shares.map((_, i) => shares.map((_, j) => (i === j ? 1 : 0.3 + 0.1 * j))),
    statistics: shares.map(() => 'collected'),
    preservedCaptions: 3,
    refinement: null,
    collectMs: 1000,
    elapsedMs: 1200,
    peakMemoryBytes: 2e8,
    ...extra,
  };
}

describe('the verdict', () => {
  it('says that all was kept, and that nobody is in the way', () => {
    expect(fusionVerdict(report([0.97, 0.93]))).toEqual([
      'Every concept was kept: in its weakest stage <word1> still has 93 % of its effect on its own features.',
      expect.stringMatching(
        /^No two concepts are in each other’s way; most of all <word1> on <word0>, with 40 %/,
      ),
      expect.stringContaining('`refine: 400` goes after them'),
    ]);
  });

  it('does not praise what was kept in part', () => {
    expect(fusionVerdict(report([0.97, 0.62]))[0]).toBe(
      'The concepts were mostly kept: in its weakest stage <word1> has 62 % of its effect on its own features left.',
    );
  });

  it('names who lost what, who disturbs whom, and what to try', () => {
    const said = fusionVerdict(
      report([0.97, 0.3], {
        collisions: [
          [1, 0.2],
          [1.3, 1],
        ],
      }),
    );
    expect(said[0]).toBe(
      'Not everything was kept: <word1> has 30 % of its effect left in its weakest stage.',
    );
    expect(said[1]).toMatch(
      /^<word0> disturbs <word1> most: on the features of <word1> its change does 130 %/,
    );
    expect(said.at(-2)).toMatch(/^Try a lower ridge or less preservation/);
  });

  it('warns of changes that other prompts will show', () => {
    const stages = report([0.9]).stages.map((stage) => ({ ...stage, largestChange: 22 }));
    expect(fusionVerdict(report([0.9], { stages })).at(-1)).toMatch(
      /changed 22\.0 times .* other prompts may suffer/,
    );
  });

  it.each([
    [0.5, 'mostly kept'],
    [0.499, 'Not everything was kept'],
    [0.9, 'Every concept was kept'],
    [0.899, 'mostly kept'],
  ])('of %d is: %s', (kept, said) => {
    expect(fusionVerdict(report([0.95, kept]))[0]).toContain(said);
  });

  it('looks at the weakest stage of each, and at changes beyond five times the concepts’ own', () => {
    const { concepts, stages } = report([0.95]);
    const staged = concepts.map((concept) => ({
      ...concept,
      kept: { text: 0.7, cross: 0.4, spatial: 0.95 },
    }));
    expect(fusionVerdict(report([0.95], { concepts: staged }))[0]).toContain('has 40 % of its effect left');
    const changed = (largestChange: number) =>
      fusionVerdict(report([0.95], { stages: stages.map((stage) => ({ ...stage, largestChange })) }));
    expect(changed(5)).toHaveLength(1);
    expect(changed(5.1)).toHaveLength(2);
  });

  it('advises a refinement where one could help, and none was made', () => {
    const three = report([0.97, 0.93, 0.9]);
    expect(refinementAdvice(three)).toContain('`refine: 600` ');
    expect(refinementAdvice({ ...three, refinement: { losses: [1], checks: [], elapsedMs: 1 } })).toBeNull();
    expect(refinementAdvice(report([0.9]))).toBeNull();
    const text = three.stages.map((stage) => ({ ...stage, stage: 'text' as const }));
    expect(refinementAdvice({ ...three, stages: text })).toBeNull();
    const idle = three.concepts.map((concept) => ({ ...concept, kept: NONE }));
    expect(refinementAdvice({ ...three, concepts: idle })).toBeNull();
  });

  it('knows a single concept, and concepts without effect', () => {
    expect(worstCollision(report([0.9]))).toBeNull();
    expect(fusionVerdict(report([]))).toEqual(['The concepts change nothing, so there was nothing to keep.']);
  });
});

describe('the page', () => {
  it('loads nothing and runs nothing, whatever concepts are called', () => {
    const hostile = report([0.9, 0.8]);
    const names = ['<script>alert(1)</script>', '"><img src=http://x onerror=y>'];
    const page = fusionReportPage(
      { ...hostile, concepts: hostile.concepts.map((concept, i) => ({ ...concept, name: names[i]! })) },
      null,
    );
    expect(page).not.toMatch(/<script|<img|<link|<iframe/i);
    expect(page).toContain('&lt;script&gt;alert(1)&lt;/script&gt;');
    // Names of XML namespaces are no addresses to load from.
    expect(page.replaceAll('http://www.w3.org/', '')).not.toMatch(/<[^>]+(src|href)="?http/);
    expect(page).toContain("default-src 'none'");
  });

  it('shows what was cut, chosen and iterated only where it was', () => {
    const plain = fusionReportPage(report([0.9, 0.8]), null);
    for (const heading of ['What cutting the rank cost', 'was chosen', 'How the loss fell']) {
      expect(plain).not.toContain(heading);
    }
    const choice = {
      chosen: 0.01,
      candidates: [
        { value: 0, kept: 0.8, largestChange: 9, preservedChange: 0.2 },
        { value: 0.01, kept: 0.9, largestChange: null, preservedChange: null },
      ],
      reason: 'keeps most',
    };
    const full = report([0.9, 0.8]);
    const page = fusionReportPage(
      {
        ...full,
        stages: full.stages.map((stage) => ({ ...stage, choices: { ridge: choice, preserve: choice } })),
        layers: [
          layer('a.to_q', [0.9, null], {
            truncation: { exactRank: 8, featureError: 0.07, plainError: 0.2 },
            losses: [1, 0.1, 0.01],
          }),
        ],
      },
      null,
    );
    for (const heading of [
      'What cutting the rank cost',
      'How the ridge of spatial was chosen',
      'How the loss fell',
    ]) {
      expect(page).toContain(heading);
    }
    expect(page).toContain('keeps most');
  });

  it('lays many layers out in several maps, and counts many concepts instead of naming them', () => {
    const many = report(Array.from({ length: 14 }, () => 0.9));
    const layers = Array.from({ length: 100 }, (_, i) =>
      layer(`up_blocks.${i}.attentions.0.proj_in`, Array<number>(14).fill(0.9)),
    );
    const concepts = many.concepts.map((concept) => ({ ...concept, name: `<${'long'.repeat(20)}>` }));
    const page = fusionReportPage({ ...many, concepts, layers }, null);
    expect(page).toContain('<title>Fusion of 14 concepts</title>');
    expect(page.match(/aria-label="Share kept per layer, spatial, part \d of 3"/g)).toHaveLength(3);
    // All layers are there, and long names stay apart on the axes.
    for (const i of [0, 33, 34, 99]) expect(page).toContain(`up ${i}.0 proj_in`);
    expect(page).toContain('longlonglonglonglonglong… (14)');
  });

  it('tells negative shares from none, and how far preserved answers moved', () => {
    const page = fusionReportPage(report([0.9, 0.8]), null);
    expect(page).toContain('0 % or less');
    expect(page).toContain('answers moved by up to 1 %');
  });

  it.each([1, 14])('holds %i concepts', (count) => {
    const page = fusionReportPage(report(Array.from({ length: count }, (_, i) => 0.9 - 0.02 * i)), null);
    expect(page.match(/<word0>|&lt;word0&gt;/g)!.length).toBeGreaterThan(3);
    expect(page.trimEnd().endsWith('</html>')).toBe(true);
  });
});

/** What stands under a heading of a page: its text, and its tables without their heads. */
function under(page: string, heading: string): { text: string; tables: string[][][]; charts: number } {
  const sections = page.split(/<h2[^>]*>/).slice(1);
  const own = sections.find((section) => section.startsWith(heading))!;
  const plain = (html: string): string =>
    html
      .replace(/<svg[\s\S]*?<\/svg>/g, '')
      .replace(/<[^>]+>/g, '')
      .trim();
  const tables = [...own.matchAll(/<tbody>([\s\S]*?)<\/tbody>/g)].map(([, body]) =>
    [...body!.matchAll(/<tr>([\s\S]*?)<\/tr>/g)].map(([, row]) =>
      [...row!.matchAll(/<td[^>]*>([\s\S]*?)<\/td>/g)].map(([, cell]) => plain(cell!)),
    ),
  );
  return { text: plain(own), tables, charts: own.match(/<svg/g)?.length ?? 0 };
}

describe('what stands in the page', () => {
  const layers = Array.from({ length: 15 }, (_, i) =>
    layer(`up_blocks.${i}.attentions.0.proj_in`, [0.99 - 0.01 * i, i === 3 ? null : 0.6], {
      relativeChange: i === 2 ? null : 1 + i / 10,
      preservedChange: i === 4 ? 0.31 : 0.02,
      condition: i === 5 ? 2.66e9 : i === 6 ? null : 10,
      crosstalk: [
        [1, 0.2],
        [0.9, 1],
      ],
      truncation: i < 14 ? { exactRank: 20 + i, featureError: (i % 7) / 100, plainError: 0.5 } : null,
      rank: 5 + i,
      losses: i === 0 ? [1] : Array.from({ length: i + 1 }, (_, k) => 1 / (k + 1)),
    }),
  );
  const losses = Array.from({ length: 12 }, (_, i) => i + 1);
  const checks = [8, 6, 7].map((error, i) => ({ step: 4 * i, error }));
  const page = fusionReportPage(
    report([0.9, 0.8], { layers, refinement: { losses, checks, elapsedMs: 2500 } }),
    null,
  );

  it('of a stage: how many layers, and the largest of everything', () => {
    const { text, charts } = under(page, 'Spatial layers of the UNet');
    expect(text).toContain('15 layers by normal, ridge 0.01, preservation 0.02; solved in');
    expect(text).toContain('0.1 s. The largest change is 2.4 times the largest of the concepts’ own.');
    expect(text).toContain('answers moved by up to 31 % of the features’ size');
    expect(text).toContain('Condition numbers up to 2.7e9.');
    expect(charts).toBe(1);
    expect(page).not.toContain('Text encoder</h2>');
  });

  it('of the worst layers: twelve, the least kept first, with who is in the way', () => {
    const [rows] = under(page, 'Where least was kept').tables;
    expect(rows).toHaveLength(12);
    // The second concept keeps 60 % everywhere, and trains all layers but one.
    expect(rows!.map(([name]) => name)).toEqual(
      [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12].map((i) => `up ${i}.0 proj_in`),
    );
    expect(rows![3]).toEqual(['up 4.0 proj_in', 'spatial', '&lt;word1&gt;', '60 %', '&lt;word0&gt;', '1.4']);
    const other = fusionReportPage(report([0.2, 0.8]), null);
    expect(under(other, 'Where least was kept').tables[0]!.map(([, , name, kept]) => [name, kept])).toEqual([
      ['&lt;word0&gt;', '20 %'],
      ['&lt;word1&gt;', '80 %'],
    ]);
  });

  it('of layers that were cut: the dearest first, of all ranks', () => {
    const { text, tables } = under(page, 'What cutting the rank cost');
    expect(text).toContain('14 layers were cut, to ranks from 5 to 18.');
    const order = [6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8];
    expect(tables[0]!.map(([name]) => name)).toEqual(order.map((i) => `up ${i}.0 proj_in`));
    expect(tables[0]![0]).toEqual(['up 6.0 proj_in', '26', '11', '6 %', '50 %']);
  });

  it('of the losses: those of the three layers with most iterations', () => {
    const chart = page.split('aria-label="Loss by iteration"')[1]!.split('</svg>')[0]!;
    expect([14, 13, 12].every((i) => chart.includes(`up ${i}.0 proj_in`))).toBe(true);
    expect(chart).not.toContain('up 11.0 proj_in');
    const single = report([0.9], { layers: [layer('a.to_q', [0.9], { losses: [1] })] });
    expect(fusionReportPage(single, null)).not.toContain('How the loss fell');
  });

  it('of a refinement: the mean of the last ten steps, and what is left on held-out predictions', () => {
    expect(under(page, 'How the refinement went').text).toContain(
      '12 steps in 2.5 s; the held-out error is 13 % lower than before.',
    );
    const untouched = { losses, checks: checks.slice(0, 1), elapsedMs: 2500 };
    expect(fusionReportPage(report([0.9, 0.8], { layers, refinement: untouched }), null)).toContain(
      '12 steps in 2.5 s; held-out predictions got no better, so nothing was changed.',
    );
    const points = refinementMeans(losses);
    expect(points.map(({ x }) => x)).toEqual(losses);
    expect(points.map(({ y }) => y)).toEqual([1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6.5, 7.5]);
  });

  it('of concepts: their shares beside those of plain merges, and what each one’s features come from', () => {
    const [rows] = under(page, 'What was kept of each concept').tables;
    expect(rows).toEqual([
      ['&lt;word0&gt;', 'spatial', '90 %', '40 %', '−200 %'],
      ['&lt;word1&gt;', 'spatial', '80 %', '40 %', '−200 %'],
    ]);
    const { text, tables } = under(page, 'What it cost');
    expect(text).toContain('1.2 s in all, 1.0 s of them for features; 200 MB of memory at most.');
    expect(tables).toEqual([
      [['spatial', '1', '0.1 s']],
      [
        ['&lt;word0&gt;', 'collected'],
        ['&lt;word1&gt;', 'collected'],
      ],
    ]);
    expect(under(fusionReportPage(report([0.9]), null), 'Who is in whose way').text).toContain(
      'There is one concept only.',
    );
  });

  it.each([
    [5, 'Fusion of &lt;word0&gt;, &lt;word1&gt;, &lt;word2&gt;, &lt;word3&gt;, &lt;word4&gt;'],
    [6, 'Fusion of 6 concepts'],
  ])('of %i concepts: the title "%s"', (count, title) => {
    const made = fusionReportPage(report(Array<number>(count).fill(0.9)), null);
    expect(made).toContain(`<title>${title}</title>`);
  });

  it.each([
    [48, 1],
    [49, 2],
    [96, 2],
    [97, 3],
  ])('of %i layers: %i maps', (count, maps) => {
    const many = Array.from({ length: count }, (_, i) => layer(`up_blocks.${i}.attentions.0.proj_in`, [0.9]));
    const made = fusionReportPage(report([0.9], { layers: many }), null);
    expect(under(made, 'Spatial layers of the UNet').charts).toBe(maps);
    expect(made.includes('part 1 of')).toBe(maps > 1);
  });
});

it('shortens layer names without making two alike', () => {
  expect(shortLayerName('down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q')).toBe(
    'down 0.1 attn1.q',
  );
  expect(shortLayerName('mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0')).toBe(
    'mid 0 attn2.out',
  );
  expect(shortLayerName('text_model.encoder.layers.11.self_attn.q_proj')).toBe('layer 11 q');
  expect(shortLayerName('up_blocks.3.resnets.2.conv_shortcut')).toBe('up 3 res2 conv_shortcut');
  expect(shortLayerName('up_blocks.3.attentions.2.proj_in')).toBe('up 3.2 proj_in');
});
