import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseHTML } from 'linkedom';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FormatError, UsageError } from '../../src/errors.ts';
import { comparePage, settingDifferences } from '../../src/evaluation/compare-page.ts';
import { type EvaluationReport, readEvaluationReport } from '../../src/evaluation/evaluation-report.ts';
import { ReportFolder } from '../../src/evaluation/report-folder.ts';
import { evaluationPage, verdict } from '../../src/evaluation/report-page.ts';
import { readPicture } from '../../src/formats/picture.ts';

const picture = (shade: number) => ({ width: 4, height: 4, data: new Uint8Array(48).fill(shade) });
const interval = (mean: number, half = 0.01) => ({ mean, low: mean - half, high: mean + half });

let root: string;
beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'edlora-report-'));
});
afterAll(() => rm(root, { recursive: true }));

/** A report with pictures, in a folder of its own. */
async function made(name: string): Promise<{ report: EvaluationReport; folder: ReportFolder }> {
  const folder = new ReportFolder(path.join(root, name));
  const variant = async (
    model: string,
    mean: number,
    shift: number | null,
  ): Promise<EvaluationReport['variants'][number]> => ({
    name: model,
    words: '<s1> <s2>',
    description: 'as it is',
    image: interval(mean),
    text: interval(mean - 0.2),
    difference: shift === null ? null : { image: interval(shift), text: interval(0, 0.02) },
    samples: [
      {
        prompt: 0,
        seed: 7,
        file: await folder.savePicture(model, picture(50)),
        imageAlignment: mean,
        textAlignment: mean - 0.2,
      },
    ],
  });
  const variants = [await variant('single', 0.8, null), await variant('fused <&>', 0.7, -0.1)];
  const drawn = await folder.savePicture('style mix', picture(80));
  const report: EvaluationReport = {
    tool: 'edlora',
    kind: 'evaluation',
    version: '1.2.3',
    base: '/models/base',
    clip: '/models/clip',
    concept: 'smiley <script>',
    prompts: ['photo of a <TOK>'],
    references: [await folder.savePicture('references', picture(200))],
    settings: {
      samples: 1,
      seed: 7,
      steps: 25,
      guidanceScale: 7.5,
      sampler: 'ddim',
      width: 4,
      height: 4,
    },
    variants,
    referenceAlignment: 0.9,
    scoring: { pictures: 3, elapsedMs: 30 },
    elapsedMs: 100,
    styleMix: {
      a: 'A',
      b: 'B',
      order: [1, 0],
      points: [0, 2].map((switched) => ({ switched, toA: 0.5, toB: 0.1 * switched, files: [drawn] })),
    },
    density: [
      {
        encoder: 'text_encoder',
        bandwidth: 0.1,
        words: 800,
        vocabulary: { low: -3, median: 2, high: 5 },
        embeddings: [
          { concept: 'smiley', word: '<s1>', logDensity: [1, 2, 3] },
          { concept: 'inversion', word: '<t>', logDensity: [-9] },
        ],
      },
    ],
    attention: {
      prompt: 'photo of a <s1>',
      seed: 1,
      picture: drawn,
      maps: [{ word: '<s1>', height: 2, width: 2, layers: 5, largest: 0.5, mean: 0.2, file: drawn }],
    },
  };
  return { report, folder };
}

describe('the report', () => {
  it('is written, read again, and shows everything in one page', async () => {
    const { report, folder } = await made('whole');
    const written = await folder.finish(report);
    expect(await readEvaluationReport(written.json)).toEqual(report);
    const [{ encoder: _, ...only }] = report.density as [NonNullable<typeof report.density>[number]];
    const former = path.join(path.dirname(written.json), 'former.json');
    await writeFile(former, JSON.stringify({ ...report, density: only }));
    expect(await readEvaluationReport(former)).toEqual(report);
    const text = await readFile(written.html, 'utf8');
    expect(text).not.toContain('<script>');
    expect(text.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/https?:|url\(|src="(?!data:)/);
    const { document } = parseHTML(text);
    const headings = [...document.querySelectorAll('h2')].map(({ textContent }) => textContent);
    expect(headings).toEqual([
      'Scores',
      'Pictures',
      'Layer-wise prompt mixing',
      'Attention on the concept’s words',
      'Where the learned embeddings lie',
    ]);
    // References, two samples, two of the strip, the picture and its map.
    expect(document.querySelectorAll('img')).toHaveLength(7);
    expect(document.querySelectorAll('svg')).toHaveLength(4);
    expect(document.body.textContent).toContain('100 a second');
    expect(await readPicture(path.join(folder.path, report.references[0]!))).toEqual(picture(200));
  });

  it('says how models stand to the first', async () => {
    const { report } = await made('verdict');
    expect(verdict(report)).toBe(
      '“single”: image alignment 0.800, text alignment 0.600. “fused <&>” against it: ' +
        'image −0.100 (−0.110 to −0.090), lower; text +0.000 (−0.020 to +0.020), no clear difference.',
    );
  });

  it('keeps groups of like names apart, and refuses a folder that is in use', async () => {
    const folder = new ReportFolder(path.join(root, 'groups'));
    expect(await folder.savePicture('a b', picture(1))).toBe('pictures/a-b/000.png');
    expect(await folder.savePicture('a/b', picture(1))).toBe('pictures/a-b-2/000.png');
    expect(await folder.savePicture('../..', picture(1))).toBe('pictures/pictures/000.png');
    expect(await folder.savePicture('a b', picture(1))).toBe('pictures/a-b/001.png');
    expect(() => new ReportFolder(folder.path)).toThrow(UsageError);
    expect(new ReportFolder(folder.path, { force: true }).path).toBe(folder.path);
  });

  it('is refused when a picture lies outside its folder, or is missing', async () => {
    const { report, folder } = await made('outside');
    await expect(evaluationPage({ ...report, references: ['../../etc/hosts'] }, folder.path)).rejects.toThrow(
      'expected a picture inside',
    );
    await expect(evaluationPage({ ...report, references: ['none.png'] }, folder.path)).rejects.toThrow(
      FormatError,
    );
  });

  it('is refused when it is something else, naming the field', async () => {
    await mkdir(path.join(root, 'bad'));
    const file = path.join(root, 'bad', 'report.json');
    const { report } = await made('good');
    await writeFile(file, JSON.stringify({ ...report, settings: { ...report.settings, steps: 'many' } }));
    await expect(readEvaluationReport(file)).rejects.toThrow('settings.steps');
    await writeFile(file, '{"tool": "edlora", "kind": "fusion"}');
    await expect(readEvaluationReport(file)).rejects.toThrow("expected an evaluation's report.json; kind");
    await writeFile(file, '<html>');
    await expect(readEvaluationReport(file)).rejects.toThrow('expected JSON');
  });
});

describe('comparing', () => {
  it('puts runs side by side, with the pictures that all have', async () => {
    const [a, b] = [await made('run a'), await made('run b')];
    const runs = [a, b].map(({ report, folder }, i) => ({
      label: 'ab'[i]!,
      report,
      folder: folder.path,
    }));
    const { document } = parseHTML(await comparePage(runs));
    expect(document.querySelector('.summary').textContent).toContain('same settings');
    const [scores, pictures] = [...document.querySelectorAll('table')];
    expect(scores.querySelectorAll('tbody tr')).toHaveLength(4);
    expect(pictures.querySelectorAll('img')).toHaveLength(4);

    const other = { ...b.report, settings: { ...b.report.settings, steps: 30, seed: 8 } };
    const moved = {
      ...other,
      variants: other.variants.map((variant) => ({
        ...variant,
        samples: variant.samples.map((sample) => ({ ...sample, seed: 8 })),
      })),
    };
    const changed = [runs[0]!, { ...runs[1]!, report: moved }];
    expect(settingDifferences(changed)).toEqual(['seed', 'steps']);
    const page = parseHTML(await comparePage(changed)).document;
    expect(page.querySelector('.summary').textContent).toContain('differ in seed, steps');
    expect(page.querySelectorAll('img')).toHaveLength(0);
    await expect(comparePage(runs.slice(0, 1))).rejects.toThrow('at least two reports');
  });
});
