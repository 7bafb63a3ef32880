/**
 * What deprojectors are worth on the miniature: errors of held-out states, pictures of single texts, of two texts averaged, and of
 * pictures; the three models against each other. `npm run eval:deprojector`; 25 CPU minutes.
 * `--epochs`, `--rollout` and `--blur` train otherwise, `--samples` draws less, `--only transformer` measures one model, `--keep folder` keeps
 * what was trained and drawn: a second run with the same settings goes on from it.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { deproject } from '../../src/deprojector/apply.ts';
import { embed } from '../../src/deprojector/embed.ts';
import { projected, unit } from '../../src/deprojector/embedding.ts';
import { textEncoderHash } from '../../src/deprojector/encoder-hash.ts';
import { DEPROJECTOR_MODEL_NAMES, type DeprojectorModelName } from '../../src/deprojector/models/index.ts';
import { type PromptStates, promptStates } from '../../src/deprojector/prompt-states.ts';
import { readPromptList } from '../../src/deprojector/prompts.ts';
import { deprojectorSettings } from '../../src/deprojector/settings.ts';
import { splitPrompts, type TrainedDeprojector, trainDeprojector } from '../../src/deprojector/train.ts';
import { bootstrapMean, type Interval } from '../../src/evaluation/bootstrap.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { ClipEncoder } from '../../src/models/clip/clip-encoder.ts';
import { clipBeside, openClipModel } from '../../src/models/clip/clip-model.ts';
import { defaultBase } from '../../src/package-root.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { detect } from '../support/shapeland/detect.ts';
import type { Picture } from '../support/shapeland/picture.ts';
import { printReport } from '../support/tool-output.ts';
import { type Drawable, draw, plainModel } from './draw.ts';
import { otherPairs } from './identity.ts';

const { values } = parseArgs({
  options: {
    epochs: { type: 'string', default: '16' },
    rollout: { type: 'string', default: '0.3' },
    blur: { type: 'string', default: '0.5' },
    keep: { type: 'string' },
    only: { type: 'string' },
    samples: { type: 'string', default: '80' },
    threads: { type: 'string' },
    json: { type: 'boolean' },
  },
});
const SETTINGS = {
  epochs: Number(values.epochs),
  lr: 3e-3,
  noise: 0.1,
  rollout: Number(values.rollout),
  blur: Number(values.blur),
};
const threads = values.threads === undefined ? undefined : Number(values.threads);
const SAMPLES = Number(values.samples);
const SEED = 7;
/** Drawn from the picture of one red circle. */
const CIRCLES = 16;
/** Positions whose errors are printed, from 1. */
const POSITIONS = [1, 2, 3, 4, 6, 8, 12, 20, 40, 76];
const NAMES = DEPROJECTOR_MODEL_NAMES.filter((name) => values.only === undefined || values.only === name);

const base = await openCheckpoint(defaultBase());
const clip = await openClipModel(clipBeside(base.path));
const prompts = await readPromptList(path.join(defaultBase(), 'deprojector_prompts.txt'));
const folder = values.keep ?? mkdtempSync(path.join(tmpdir(), 'edlora-deprojector-'));
mkdirSync(folder, { recursive: true });
const statesFile = path.join(folder, 'prompts.safetensors');
const { textEncoder } = base.parts;
const reader = { encoder: textEncoder, tokenizer: base.tokenizer, hash: await textEncoderHash(textEncoder) };
const data = await promptStates(reader, prompts, statesFile, executionContext());

/** Trained, and the CPU time of it. */
async function trained(model: DeprojectorModelName): Promise<{ run: TrainedDeprojector; seconds: number }> {
  const stem = path.join(folder, [model, SETTINGS.epochs, SETTINGS.rollout, SETTINGS.blur].join('-'));
  const clock = existsSync(`${stem}.json`) ? JSON.parse(readFileSync(`${stem}.json`, 'utf8')).seconds : 0;
  const start = process.cpuUsage();
  const run = await trainDeprojector({
    base,
    clip,
    prompts,
    statesFile,
    threads,
    stateFile: `${stem}.safetensors`,
    resume: true,
    settings: { ...SETTINGS, model },
    onProgress: ({ phase, done, total, step }) => {
      if (done % 100 === 0)
        process.stderr.write(`${model}: ${phase} ${done}/${total} ${step?.loss.toFixed(4) ?? ''}\n`);
    },
  });
  const { user, system } = process.cpuUsage(start);
  const seconds = clock > 0 ? clock : (user + system) / 1e6;
  writeFileSync(`${stem}.json`, JSON.stringify({ seconds }));
  return { run, seconds };
}

/** What was measured under a name, from the folder if it is there. */
async function kept<T>(name: string, measure: () => Promise<T>): Promise<T> {
  const file = path.join(folder, `${name}.json`);
  if (existsSync(file)) return JSON.parse(readFileSync(file, 'utf8')) as T;
  const measured = await measure();
  writeFileSync(file, JSON.stringify(measured));
  process.stderr.write(`${name}\n`);
  return measured;
}

/** Errors by position of the answers that need no deprojector. */
function trivialErrors({ space }: TrainedDeprojector['deprojector']): { mean: number[]; nearest: number[] } {
  const split = splitPrompts(data.count, deprojectorSettings({ ...SETTINGS, model: 'transformer' }));
  const { positions, width } = data;
  const sum = new Float64Array(positions * width);
  for (const i of split.trained) {
    data.of(i).forEach((value, j) => {
      sum[j]! += value / split.trained.length;
    });
  }
  const embeddings = split.trained.map((i) => unit(projected(space, pooledOf(data, i))));
  const [mean, nearest] = [new Array<number>(positions).fill(0), new Array<number>(positions).fill(0)];
  for (const i of split.heldOut) {
    const own = unit(projected(space, pooledOf(data, i)));
    const scores = embeddings.map((other) => other.reduce((dot, value, k) => dot + value * own[k]!, 0));
    const closest = data.of(split.trained[scores.indexOf(Math.max(...scores))]!);
    data.of(i).forEach((value, j) => {
      const part = 1 / (width * split.heldOut.length);
      mean[Math.floor(j / width)]! += part * (value - sum[j]!) ** 2;
      nearest[Math.floor(j / width)]! += part * (value - closest[j]!) ** 2;
    });
  }
  return { mean, nearest };
}
const pooledOf = ({ pooled, width }: PromptStates, i: number): Float32Array =>
  pooled.subarray(i * width, (i + 1) * width);
const meanOf = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / list.length;

/** Whether colour and shape of each picture are right. */
interface Judged {
  readonly colour: readonly number[];
  readonly shape: readonly number[];
  readonly both: readonly number[];
}
const pairs = otherPairs(SAMPLES);
function judge(pictures: readonly Picture[]): Judged {
  const found = pictures.map((picture) => detect(picture));
  const colour = found.map((own, i) => Number(own?.colour === pairs[i]!.colour));
  const shape = found.map((own, i) => Number(own?.shape === pairs[i]!.shape));
  return { colour, shape, both: colour.map((right, i) => right * shape[i]!) };
}
const drawn = async (what: readonly Drawable[]): Promise<Picture[]> =>
  draw({ ...plainModel(base), threads }, what, { seed: SEED });
const each = [...pairs.keys()];
const rate = (right: readonly number[]): Interval => bootstrapMean(right, each);
const percent = ({ mean, low, high }: Interval): string =>
  `${Math.round(100 * mean)} % (${Math.round(100 * low)}–${Math.round(100 * high)})`;
const rowOf = (what: string, { colour, shape, both }: Judged) => ({
  what,
  colour: percent(rate(colour)),
  shape: percent(rate(shape)),
  both: percent(rate(both)),
});

const single = pairs.map(({ colour, shape }) => `photo of a ${colour} ${shape}`);
/** The pictures of single texts, judged, and as CLIP embeds them. */
const direct = await kept('direct', async () => {
  const pictures = await drawn(single);
  const vision = new ClipEncoder(clip);
  const { data: seen, width } = await vision.pictures(pictures);
  await vision.dispose();
  return {
    judged: judge(pictures),
    embeddings: each.map((i) => [...seen.slice(i * width, (i + 1) * width)]),
  };
});
const seen = direct.embeddings.map((own) => Float32Array.from(own));
const joined = await kept('joined', async () =>
  judge(await drawn(pairs.map(({ colour, shape }) => `a ${colour} ${shape}`))),
);
/** Two texts of each pair and the second one's weight: what composition averages. */
const COMPOSITIONS = {
  '"photo of a COLOUR object" + 1.5 × "photo of a SHAPE"': [
    'photo of a COLOUR object',
    'photo of a SHAPE',
    1.5,
  ],
  '"a COLOUR thing" + "a SHAPE"': ['a COLOUR thing', 'a SHAPE', 1],
} as const;
type Composition = keyof typeof COMPOSITIONS;
/** What the goal is about, and what the models are compared by. */
const JUDGED = '"a COLOUR thing" + "a SHAPE"' satisfies Composition;
const filled = (text: string, { colour, shape }: { colour: string; shape: string }): string =>
  text.replace('COLOUR', colour).replace('SHAPE', shape);
const encoder = base.family.base.tokenEncoder(base.parts, {});
/** What no space has: the mean of two texts' states, position by position. */
const nullJudged = await kept('mean-of-states', async () => {
  const { vocabulary } = plainModel(base);
  const size = base.parts.maxPositions * textEncoder.config.hiddenSize;
  const [first, second, weight] = COMPOSITIONS[JUDGED];
  // Equal in every layer.
  const statesOf = async (text: string): Promise<Float32Array> =>
    (await encoder.encode(vocabulary.promptIds(text))).states.data.slice(0, size);
  const means: Float32Array[] = [];
  for (const pair of pairs) {
    const [a, b] = [await statesOf(filled(first, pair)), await statesOf(filled(second, pair))];
    means.push(a.map((value, i) => (value + weight * b[i]!) / (1 + weight)));
  }
  return judge(await drawn(means));
});

const errors: Record<string, string | number>[] = [];
const pictures = [rowOf('direct, "photo of a COLOUR SHAPE"', direct.judged)];
const composed = [
  rowOf('direct, "a COLOUR SHAPE"', joined),
  rowOf(`mean of hidden states, ${JUDGED}`, nullJudged),
];
const fromPictures: Record<string, string>[] = [];
const results: Record<string, { single: Judged; composed: Judged }> = {};
const errorRow = (what: string, list: readonly number[], more: Record<string, string | number> = {}) => ({
  what,
  ...more,
  mean: meanOf(list).toFixed(3),
  ...Object.fromEntries(POSITIONS.map((position) => [`at ${position}`, list[position - 1]!.toFixed(3)])),
});
for (const name of NAMES) {
  const { run, seconds } = await trained(name);
  const { deprojector, heldOut, parameterCount } = run;
  if (errors.length === 0) {
    const { mean, nearest } = trivialErrors(deprojector);
    errors.push(errorRow('mean of the training states', mean), errorRow('nearest training prompt', nearest));
  }
  const more = { numbers: parameterCount, 'CPU s': Math.round(seconds) };
  errors.push(errorRow(`${name}, behind true states`, heldOut.teacherForced, more));
  errors.push(errorRow(`${name}, behind its own`, heldOut.autoregressive, more));
  const request = { base, deprojector, clip: async () => clip };
  const ofText = async (text: string): Promise<Float32Array> => embed([{ text, weight: 1 }], request);
  const statesOf = async (embeddings: readonly Float32Array[]): Promise<Float32Array[]> =>
    (await deproject(deprojector, embeddings, executionContext())).map((states) => states.data);
  const ofPair = (
    pair: (typeof pairs)[number],
    [first, second, weight]: (typeof COMPOSITIONS)[Composition],
  ) =>
    embed(
      [
        { text: filled(first, pair), weight: 1 },
        { text: filled(second, pair), weight },
      ],
      request,
    );
  const alone = await kept(`${name}-single`, async () => {
    const embeddings: Float32Array[] = [];
    for (const text of single) embeddings.push(await ofText(text));
    return judge(await drawn(await statesOf(embeddings)));
  });
  pictures.push(rowOf(name, alone));
  for (const [title, texts] of Object.entries(COMPOSITIONS)) {
    const own = await kept(`${name}-${texts.join('-').replace(/\W+/g, '-')}`, async () => {
      const means: Float32Array[] = [];
      for (const pair of pairs) means.push(await ofPair(pair, texts));
      return judge(await drawn(await statesOf(means)));
    });
    composed.push(rowOf(`${name}, ${title}`, own));
    if (title === JUDGED) results[name] = { single: alone, composed: own };
  }
  const again = await kept(`${name}-pictures`, async () => judge(await drawn(await statesOf(seen))));
  const circles = await kept(`${name}-circles`, async () => {
    const circle = seen[pairs.findIndex(({ colour, shape }) => colour === 'red' && shape === 'circle')]!;
    const [states] = await statesOf([circle]);
    return (await drawn(Array<Float32Array>(CIRCLES).fill(states!))).map((picture) => {
      const { colour, shape } = detect(picture) ?? {};
      return { colour, shape };
    });
  });
  const share = (test: (found: (typeof circles)[number]) => boolean): string =>
    `${Math.round((100 * circles.filter(test).length) / circles.length)} %`;
  fromPictures.push({
    ...rowOf(name, again),
    'one of a red circle': `red ${share(({ colour }) => colour === 'red')}, circle ${share(({ shape }) => shape === 'circle')}`,
  });
}
if (values.keep === undefined) rmSync(folder, { recursive: true });

/** The difference of two models on the same pairs and seeds. */
const differences = NAMES.flatMap((a, i) =>
  NAMES.slice(i + 1).map((b) => {
    const of = (kind: 'single' | 'composed'): Interval =>
      rate(results[a]![kind].both.map((right, k) => right - results[b]![kind].both[k]!));
    const points = ({ mean, low, high }: Interval): string =>
      `${(100 * mean).toFixed(0)} points (${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)})`;
    return {
      what: `${a} − ${b}`,
      'single, both right': points(of('single')),
      'composed, both right': points(of('composed')),
    };
  }),
);
const relative = (kind: 'colour' | 'shape', name: string): number =>
  rate(results[name]!.single[kind]).mean / rate(direct.judged[kind]).mean;
const known = new Set(prompts);
const reached = NAMES.map((name) => {
  const [colour, shape] = [relative('colour', name), relative('shape', name)];
  const both = rate(results[name]!.composed.both).mean;
  const goal = colour >= 0.9 && shape >= 0.85 && both >= 0.6 ? 'reached' : 'missed';
  const of = (share: number): string => `${Math.round(100 * share)} %`;
  return `${name}: colour ${of(colour)} and shape ${of(shape)} of direct conditioning (goal 90 and 85), composition ${of(both)} (goal 60): ${goal}`;
});
const parts = { errors, pictures, composed, fromPictures, differences };
if (values.json === true) {
  printReport({
    title: 'Deprojectors on the miniature',
    rows: errors,
    notes: reached,
    details: { ...parts, settings: SETTINGS },
  });
} else {
  const settings = `${SETTINGS.epochs} epochs of ${data.count} prompts, learning rate ${SETTINGS.lr}, noise ${SETTINGS.noise}, rollout ${SETTINGS.rollout}, blur ${SETTINGS.blur}`;
  printReport({
    title: 'Mean squared errors of held-out states, by position',
    rows: errors,
    notes: [settings],
  });
  const seen = single.filter((prompt) => known.has(prompt)).length;
  const how = `${SAMPLES} pairs of colour and shape, DDIM 25 steps, guidance 4, the same seeds; 95 % intervals over pairs`;
  printReport({
    title: 'Pictures of one text',
    rows: pictures,
    notes: [how, `${seen} of the prompts are in the list that was trained on`],
  });
  printReport({ title: 'Pictures of two texts, each embedded alone, then averaged', rows: composed });
  printReport({ title: 'Pictures of pictures: those of the first row above, embedded', rows: fromPictures });
  printReport({ title: 'The models against each other', rows: differences, notes: reached });
}
