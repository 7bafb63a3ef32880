/** A fusion's report for people: what it says, and that it stands alone. */
import { describe, expect, it } from 'vitest';
import { shortLayerName } from '../../../src/fusion/report/page-text.ts';
import type { FusionReport, LayerReport } from '../../../src/fusion/report/report.ts';
import { fusionReportPage } from '../../../src/fusion/report/report-page.ts';
import { fusionVerdict, worstCollision } from '../../../src/fusion/report/verdict.ts';

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
    expect(said.at(-1)).toMatch(/^Try a lower ridge or less preservation/);
  });

  it('warns of changes that other prompts will show', () => {
    const stages = report([0.9]).stages.map((stage) => ({ ...stage, largestChange: 22 }));
    expect(fusionVerdict(report([0.9], { stages })).at(-1)).toMatch(
      /changed 22\.0 times .* other prompts may suffer/,
    );
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
