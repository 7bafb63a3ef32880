/** `edlora deproject apply`. */
import path from 'node:path';
import { UsageError } from '../../src/errors.ts';
import {
  checkStatesTarget,
  clipBeside,
  defaultBase,
  deprojectParts,
  describeParts,
  openCheckpoint,
  openClipModel,
  openDeprojector,
  writeStates,
} from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import type { CommandContext } from '../command.ts';
import { readBaseOptions, text } from '../options.ts';
import { nearPath } from '../terminal/table.ts';
import { embeddedParts } from './options.ts';

type Args = Readonly<Record<string, unknown>>;

export async function applyDeprojector(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const file = text(args, 'file');
  if (file === undefined) throw new UsageError('deproject apply: expected the file of a deprojector');
  const parts = embeddedParts(args, { text: 'text', image: 'image' });
  if (parts.length === 0) throw new UsageError('deproject apply: expected --text or --image');
  const out = text(args, 'out') ?? 'states.safetensors';
  const basePath = text(args, 'base') ?? defaultBase();
  const images = parts.flatMap((part) => ('image' in part ? [part.image] : []));
  checkStatesTarget(out, { inputs: [file, basePath, ...images], force: args.force === true });
  const deprojector = await openDeprojector(file);
  const base = await openCheckpoint(basePath, readBaseOptions(args));
  const source = describeParts(parts);
  if (args['dry-run'] === true) {
    io.out(`Would write the states of ${visible(source)}; nothing is written.\n`);
    return;
  }
  const clip = () => openClipModel(text(args, 'clip') ?? clipBeside(basePath));
  const [states] = await deprojectParts([parts], { base, deprojector, clip, signal, threads });
  await writeStates(out, { states: states!, textEncoder: deprojector.textEncoder, source });
  const shape = states!.shape.join(' × ');
  if (args.json === true)
    io.out(`${JSON.stringify({ file: path.resolve(out), source, shape: states!.shape }, null, 2)}\n`);
  else
    io.out(
      `${nearPath(path.resolve(out))}   ${shape} states of ${visible(source)}: edlora sample --states\n`,
    );
}
