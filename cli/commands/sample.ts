/** `edlora sample`: pictures from a model, with regions, adapters and several concepts. */
import { drawScene, planScene } from '../../src/index.ts';
import { asTyped } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { number, text } from '../options.ts';
import { planText, resultText } from '../sampling/result.ts';
import { readScene, sampleOptions } from '../sampling/scene-options.ts';
import { sayNote } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';

type Args = Readonly<Record<string, unknown>>;

const CONCEPTS = 'fixtures/tiny-world/concepts';

export const sampleCommand: Command = {
  usage: 'sample',
  description: 'Draw pictures, several concepts each in its place',
  options: sampleOptions,
  examples: [
    ['edlora sample --prompt "photo of a red circle" --guidance 4 --count 4 --grid', 'The shipped miniature'],
    [
      `edlora sample --concepts ${CONCEPTS}/edlora_smiley.pth --prompt "a <smiley1> <smiley2> on a blue background" --guidance 4`,
      'One concept',
    ],
    [
      'edlora sample --fused fused --width 128 --height 64 --guidance 4 --isolate 1 --prompt "" --region "photo of a <smiley1> <smiley2> @ 0,0,0.45,1" --region "photo of a <bullseye1> <bullseye2> @ 0.55,0,1,1"',
      'Two fused concepts side by side',
    ],
    [
      `edlora sample --concepts ${CONCEPTS}/edlora_smiley.pth ${CONCEPTS}/edlora_bullseye.pth --combine switch --prompt "a <smiley1> <smiley2> and a <bullseye1> <bullseye2>" --width 128 --height 64 --guidance 4`,
      'Two concepts that take turns; composite is the mean of both at every step',
    ],
    [
      'edlora sample --base sd_xl_base_1.0.safetensors --base-config sdxl --loras style-sdxl.safetensors:0.8 --prompt "a cat" --original-size 1024x1024',
      'An SDXL checkpoint with a LoRA; the folder sdxl has its tokenizers',
    ],
    [
      `edlora sample --concepts ${CONCEPTS}/edlora_smiley.pth ${CONCEPTS}/edlora_bullseye.pth --auto-regions --isolate 1 --prompt "a <smiley1> <smiley2> and a <bullseye1> <bullseye2>" --width 128 --height 64 --guidance 4 --save-masks masks`,
      'Two concepts find their places; masks/ has them, to edit and draw again',
    ],
    ['edlora sample --from out/0000.png --seed 7', 'The same scene with another seed'],
  ],
  run: runSample,
};

async function runSample(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const previewEvery = args.preview === undefined ? 0 : number('--preview', text(args, 'preview')!);
  const planned = await planScene(await readScene(args));
  const notes = planned.notes.map(asTyped);
  if (args.quiet !== true) {
    for (const note of notes) sayNote(io, note);
  }
  if (args['dry-run'] === true) {
    io.out(args.json === true ? json({ scene: planned.scene, notes }) : planText(planned));
    return;
  }
  const line = new ProgressLine(io);
  const total = planned.request.count ?? 1;
  const drawn = await drawScene(planned, {
    folder: text(args, 'out')!,
    grid: args.grid === true,
    metadata: args.metadata === true,
    previewEvery,
    masks: text(args, 'save-masks'),
    signal,
    threads,
    onProgress: ({ done, total: stepCount, picture }) => {
      if (args.quiet === true) return;
      line.update({ activity: `picture ${picture} of ${total}`, done, total: stepCount }, 'drawing');
    },
  }).finally(() => line.finish());
  if (args.quiet !== true) for (const note of drawn.notes) sayNote(io, note);
  io.out(
    args.json === true
      ? json({ ...drawn, notes: [...notes, ...drawn.notes] })
      : resultText(planned, drawn, io),
  );
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;
