/** The base that a command works on. */
import { type Checkpoint, type CheckpointOptions, leanAdvice, openCheckpoint } from '../src/index.ts';
import { type Io, sayNote } from './terminal/io.ts';

/** Opened, and said where its weights leave little memory. @throws as `openCheckpoint` */
export async function openBase(file: string, options: CheckpointOptions, io: Io): Promise<Checkpoint> {
  const base = await openCheckpoint(file, options);
  const advice = leanAdvice(base);
  if (advice !== null) sayNote(io, advice);
  return base;
}
