/**
 * Pictures of the class, for prior preservation: what is missing is drawn by the base itself. A drawn picture carries what
 * made it (base, prompt, seed), so that one of another run is told apart and left alone.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { hashFiles } from '../formats/file-hash.ts';
import { encodePng, readPngTexts } from '../formats/png.ts';
import { makeFolder, writeFileAtomically } from '../io/replace-file.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import { Pipeline } from '../sampling/sample.ts';
import { readTrainingFolder, type TrainingPicture } from './data/training-folder.ts';

/** Keyword of the record in a drawn picture's PNG file. */
const RECORD_KEY = 'edlora.class';

export interface ClassPictureOptions {
  readonly classPrompt: string;
  readonly classImages: number;
  readonly seed: number;
  /** Whether pictures without a record count: somebody's own photos of the class. */
  readonly unrecorded: boolean;
  /** Progress: pictures that are there. */
  readonly execution?: ExecutionContext<number>;
}

/**
 * The class pictures of a folder, drawn first where there are fewer than asked for. Drawn ones count if this base drew
 * them for this prompt from these seeds.
 * @throws {UsageError | FormatError} as `readTrainingFolder`
 */
export async function classPictures(
  base: Checkpoint,
  folder: string,
  { classPrompt, classImages, seed, unrecorded, execution = executionContext() }: ClassPictureOptions,
): Promise<TrainingPicture[]> {
  await makeFolder(folder);
  const drawnBy = await makerOf(base, classPrompt, execution.signal);
  const recordOf = (index: number): string => JSON.stringify({ ...drawnBy, seed: seed + index });
  const wanted = new Set(Array.from({ length: classImages }, (_, index) => recordOf(index)));
  const found = new Map<string, string | null>();
  for (const name of readdirSync(folder).filter((entry) => /\.(png|jpe?g|jfif|webp)$/i.test(entry))) {
    const record = await recordIn(path.join(folder, name));
    if (record === null ? unrecorded : wanted.has(record)) found.set(name, record);
  }
  if (found.size < classImages) {
    const drawn = new Set(found.values());
    const mark = createHash('sha256').update(recordOf(0)).digest('hex').slice(0, 8);
    const pipeline = await Pipeline.create(base, execution);
    try {
      for (let i = 0; found.size < classImages; i++) {
        const record = recordOf(i);
        const name = `class-${mark}-${String(i).padStart(4, '0')}.png`;
        if (drawn.has(record) || existsSync(path.join(folder, name))) continue;
        const [picture] = await pipeline.sample({ prompt: classPrompt, seed: seed + i });
        const png = await encodePng(picture!, { [RECORD_KEY]: record });
        await writeFileAtomically(path.join(folder, name), [png]);
        found.set(name, record);
        execution.progress?.(found.size);
      }
    } finally {
      await pipeline.dispose();
    }
  }
  const pictures = await readTrainingFolder(folder, {
    captions: 'prompt',
    captionFolder: '',
    prompt: classPrompt,
    masks: 'none',
  });
  return pictures.filter(({ file }) => found.has(path.basename(file)));
}

/** Base and prompt, as a picture's record has them. */
async function makerOf(
  base: Checkpoint,
  prompt: string,
  signal: AbortSignal | undefined,
): Promise<{ base: string; prompt: string }> {
  const { parts } = base;
  const networks = [
    ...parts
      .changeable()
      .map(([, part]) => part)
      .toReversed(),
    await parts.vae(),
  ];
  const files = networks.flatMap(({ file }) =>
    [...file.tensors.values()].flatMap(({ storage }) => storage.range?.file ?? []),
  );
  const hashes = await hashFiles(files, signal);
  const all = createHash('sha256');
  for (const file of new Set(files)) all.update(hashes.get(file)!);
  all.update(JSON.stringify(base.schedule.config));
  return { base: all.digest('hex'), prompt };
}

/** What a picture says of its making; `null` for one that was not drawn here. */
async function recordIn(file: string): Promise<string | null> {
  if (!/\.png$/i.test(file)) return null;
  return (await readPngTexts(file).catch(() => null))?.get(RECORD_KEY) ?? null;
}
