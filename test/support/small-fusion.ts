/** What a fusion needs where its numbers are compared with each other, not judged: a small base, and concepts that fit it. */
import path from 'node:path';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { writeRandomConcept } from './random-concept.ts';
import { scratch } from './scratch.ts';
import { writeSmallBase } from './small-base.ts';

export interface SmallFusion {
  readonly base: Checkpoint;
  /** Files of two concepts, each with two words: `<maple1> <maple2>`, `<river1> <river2>`. */
  readonly concepts: Readonly<Record<'maple' | 'river', string>>;
}

export async function smallFusion(): Promise<SmallFusion> {
  const place = scratch('base');
  await writeSmallBase(place);
  const base = await openCheckpoint(place);
  const write = async (name: string, seed: number): Promise<string> => {
    const file = path.join(path.dirname(place), `${name}.safetensors`);
    await writeRandomConcept(file, base, { words: [`<${name}1>`, `<${name}2>`], seed });
    return file;
  };
  return { base, concepts: { maple: await write('maple', 1), river: await write('river', 2) } };
}
