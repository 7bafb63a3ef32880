/**
 * Training steps per second on the miniature, and at full size: a random-weight SD 1.5 at 512 × 512, batch 1, LoRA of
 * rank 4 on all attention linears of UNet and text encoder, and ED-LoRA with its 16 prompts of two new words. Each
 * measurement runs in a process of its own, so that peak memory is its own; PyTorch beside it where python3 has torch,
 * diffusers and transformers (PYTHON names it).
 * `npm run bench:train -- [--only miniature] [--runs 4]`.
 */
import { loadavg } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import { layerId } from '../../src/models/families/layer-table.ts';
import { attentionPlaces } from '../../src/models/unet/structure.ts';
import { adamwState, adamwStep } from '../../src/optim/adamw.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32 } from '../../src/tensor/tensor.ts';
import { loraFactors } from '../../src/training/factors.ts';
import { plainWeights } from '../../src/training/loss-weights.ts';
import { TrainingStep } from '../../src/training/step.ts';
import { trainedLayers } from '../../src/training/trained-layers.ts';
import { PYTHON } from '../support/python.ts';
import { printReport } from '../support/tool-output.ts';
import { childOutput } from './child-output.ts';
import { ensureRandomModel } from './random-sd15.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: 'miniature,full,blocks,edlora,apart' },
    runs: { type: 'string', default: '4' },
    json: { type: 'boolean' },
    child: { type: 'string' },
  },
});
const runs = Number(values.runs);

interface KindOptions {
  readonly label: string;
  readonly checkpointBlocks?: boolean;
  /** One prompt per cross-attention layer, that many positions of them encoded once; PyTorch is not compared. */
  readonly sharedPrefix?: number;
}

const KINDS = {
  miniature: { label: 'miniature, 64 × 64' },
  full: { label: 'SD 1.5, 512 × 512' },
  blocks: { label: 'SD 1.5, 512 × 512, blocks recomputed', checkpointBlocks: true },
  edlora: { label: 'SD 1.5, 512 × 512, ED-LoRA', sharedPrefix: 4 },
  apart: { label: 'the same, nothing shared by the prompts', sharedPrefix: 0 },
} as const satisfies Record<string, KindOptions>;
type Kind = keyof typeof KINDS;

interface Measured {
  readonly stepMs: readonly number[];
  /** Time of all threads: says something beside other work too. */
  readonly cpuMs: readonly number[];
  readonly peakBytes: number;
  readonly loss: number;
}

const modelOf = (kind: Kind): Promise<string> =>
  kind === 'miniature' ? Promise.resolve(defaultBase()) : ensureRandomModel();

/** Whole steps: text encoder, UNet, back through both, AdamW. */
async function measure(kind: Kind): Promise<Measured> {
  const base = await openCheckpoint(await modelOf(kind));
  const { sharedPrefix, checkpointBlocks = false }: KindOptions = KINDS[kind];
  const layerwise = sharedPrefix !== undefined;
  const random = new TorchGenerator(0);
  const layers = trainedLayers(base, {
    unet: 'attention',
    text: 'attention',
    rank: 4,
    loraAlpha: 4,
    alphaOverRank: true,
  }).map((layer) => loraFactors(layer, random));
  const idOf = ({ layer }: (typeof layers)[number]) => layerId(layer.component, layer.layerName);
  const { weights, config } = base.parts.textEncoder;
  const prompts = attentionPlaces(base.parts.unet.config).length;
  const rows = random.randn(layerwise ? 2 * prompts * config.hiddenSize : 0);
  const embeddings = new TokenEmbeddings(weights, config, rows);
  const { vocabSize } = base.tokenizer;
  const step = new TrainingStep(
    base,
    new Map([[base.parts.textEncoderId, embeddings]]),
    rows.length / config.hiddenSize,
    {
      ranks: new Map(layers.map((own) => [idOf(own), own.graphRank])),
      firstTrainedId: layerwise ? vocabSize : null,
      layerwise,
      sharedPrefix: sharedPrefix ?? 0,
      attention: null,
      attentionWeight: 0,
      detachFirstToken: false,
      checkpointBlocks,
    },
  );
  const { inChannels: channels, sampleSize: size } = base.parts.unet.config;
  const states = layers.map(
    ({ parameters }) => new Map([...parameters].map(([name, p]) => [name, adamwState(p.length)])),
  );
  const prompt = base.tokenizer.encodePadded('photo of a red circle').ids;
  const layerPrompts = Array.from({ length: prompts }, (_, layer) =>
    prompt.with(4, vocabSize + layer).with(5, vocabSize + prompts + layer),
  );
  const rowsState = adamwState(rows.length);
  const stepMs: number[] = [];
  const cpuMs: number[] = [];
  let loss = Number.NaN;
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    const startCpu = process.cpuUsage();
    const feeds = new Map(
      layers.map((own) => {
        const { down, up } = own.factors(null);
        const { m, n } = own.layer;
        return [idOf(own), { down: float32([own.graphRank, n], down), up: float32([m, own.graphRank], up) }];
      }),
    );
    const result = await step.run(
      {
        latentHeight: size,
        latentWidth: size,
        noisy: random.randn(channels * size * size),
        target: random.randn(channels * size * size),
        timesteps: [500],
        lossWeights: plainWeights(1, channels, size * size),
        prompts: [(layerwise ? layerPrompts : [prompt]).map((ids) => [ids])],
      },
      feeds,
    );
    layers.forEach((own, i) => {
      const { parameters, backward } = own;
      const d = result.factors.get(idOf(own))!;
      for (const [name, gradient] of backward(d, null)) {
        adamwStep(parameters.get(name)!, gradient, states[i]!.get(name)!, 1e-4);
      }
    });
    const gradient = result.embeddings.get(base.parts.textEncoderId);
    if (gradient !== undefined) adamwStep(rows, gradient, rowsState, 1e-3);
    loss = result.loss;
    stepMs.push(performance.now() - start);
    const { user, system } = process.cpuUsage(startCpu);
    cpuMs.push((user + system) / 1000);
  }
  const peakBytes = process.resourceUsage().maxRSS * 1024;
  await step.dispose();
  return { stepMs, cpuMs, peakBytes, loss };
}

async function compare(): Promise<void> {
  const kinds = values.only.split(',') as Kind[];
  const rows = [];
  const details: Record<string, unknown> = {};
  const notes = [
    `fastest of ${runs - 1} steps after the first; peak is the process's largest resident size, mapped weights included`,
    `load of the machine before: ${loadavg()[0]!.toFixed(1)}`,
  ];
  /** The first step also loads graphs and touches the weights. */
  const warm = (times: readonly number[]): number => Math.min(...times.slice(1));
  const python = new Map<string, (Measured & { versions: string }) | string>();
  for (const kind of kinds) {
    const folder = await modelOf(kind);
    const ours = childOutput<Measured>(process.execPath, [
      fileURLToPath(import.meta.url),
      '--child',
      kind,
      '--runs',
      String(runs),
    ]);
    if (typeof ours === 'string') throw new Error(ours);
    const { sampleSize } = (await openCheckpoint(folder)).parts.unet.config;
    const { sharedPrefix }: KindOptions = KINDS[kind];
    const theirs =
      sharedPrefix !== undefined
        ? null
        : (python.get(folder) ??
          childOutput<Measured & { versions: string }>(PYTHON, [
            path.join(packageRoot(), 'test', 'bench', 'train.py'),
            folder,
            String(runs),
            String(sampleSize),
          ]));
    if (theirs !== null) python.set(folder, theirs);
    const other = typeof theirs === 'string' ? null : theirs;
    if (typeof theirs === 'string') notes.push(`comparison with PyTorch skipped: ${theirs}`);
    const seconds = (ms: number): string =>
      ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`;
    const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;
    rows.push({
      what: KINDS[kind].label,
      step: seconds(warm(ours.stepMs)),
      'CPU time': seconds(warm(ours.cpuMs)),
      peak: gigabytes(ours.peakBytes),
      'PyTorch step': other && seconds(warm(other.stepMs)),
      'PyTorch CPU time': other && seconds(warm(other.cpuMs)),
      'PyTorch peak': other && gigabytes(other.peakBytes),
      'faster by': other && `${(warm(other.stepMs) / warm(ours.stepMs)).toFixed(2)} ×`,
    });
    details[kind] = { edlora: ours, pytorch: other };
    if (other !== null && !notes.includes(other.versions)) notes.push(other.versions);
  }
  printReport({
    title: `Training steps, batch 1, LoRA of rank 4 on all attention linears`,
    rows,
    notes,
    details,
  });
}

if (values.child === undefined) await compare();
else process.stdout.write(`${JSON.stringify(await measure(values.child as Kind))}\n`);
