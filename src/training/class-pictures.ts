/** Pictures of the class, for prior preservation: what is missing is drawn by the base itself. */

import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { encodePng } from '../formats/png.ts';
import { makeFolder, writeFileAtomically } from '../io/replace-file.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { Pipeline } from '../sampling/sample.ts';
import { readTrainingFolder, type TrainingPicture } from './data/training-folder.ts';

export interface ClassPictureOptions {
  readonly classPrompt: string;
  readonly classImages: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onPicture?: (done: number, total: number) => void;
}

/**
 * The class pictures of a folder, drawn first where there are fewer than asked for.
 * @throws {UsageError | FormatError} as `readTrainingFolder`
 */
export async function classPictures(
  base: Checkpoint,
  folder: string,
  { classPrompt, classImages, seed, signal, onPicture }: ClassPictureOptions,
): Promise<TrainingPicture[]> {
  await makeFolder(folder);
  const present = readdirSync(folder).filter((name) => /\.(png|jpe?g|webp)$/i.test(name)).length;
  if (present < classImages) {
    const pipeline = await Pipeline.create(base);
    try {
      for (let i = 0, done = present; done < classImages; i++) {
        const file = path.join(folder, `class-${String(i).padStart(4, '0')}.png`);
        if (existsSync(file)) continue;
        const hooks = signal === undefined ? {} : { signal };
        const [picture] = await pipeline.sample({ prompt: classPrompt, seed: seed + i }, hooks);
        await writeFileAtomically(file, [await encodePng(picture!)]);
        onPicture?.(++done, classImages);
      }
    } finally {
      await pipeline.dispose();
    }
  }
  return readTrainingFolder(folder, {
    captions: 'prompt',
    captionFolder: '',
    prompt: classPrompt,
    masks: 'none',
  });
}
