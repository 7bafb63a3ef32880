/**
 * What one LoRA can hold at all: several of the miniature's concepts trained together into one file, of the rank that their
 * fusion has. The same pictures, settings and steps a concept as `eval:training`; kept, as it takes minutes a concept.
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase, packageRoot } from '../../src/package-root.ts';
import { PLACEHOLDER } from '../../src/training/data/captions.ts';
import { writeTrained } from '../../src/training/output.ts';
import { train } from '../../src/training/train.ts';
import type { ConceptName } from '../support/shapeland/world.ts';
import { wordsOf } from './identity.ts';
import { classOf, SETTINGS } from './training-settings.ts';

const RANK = 4;
const OUT = path.join(packageRoot(), '.build', 'eval-joint');

/** The file of these concepts trained together for so many steps a concept, trained now if it is not there. */
export async function trainedJointly(
  names: readonly ConceptName[],
  steps: number,
  onStep?: (step: number) => void,
): Promise<string> {
  const file = path.join(OUT, `${names.join('-')}-${steps}.safetensors`);
  if (existsSync(file)) return file;
  const trained = await train({
    base: await openCheckpoint(defaultBase()),
    settings: {
      ...SETTINGS,
      method: 'ed-lora',
      data: picturesOf(names),
      token: names.map((name) => wordsOf(name).replace(' ', '+')).join('+'),
      init: names.map((name) => `<rand-0.013>+${classOf(name)}`).join('+'),
      steps: names.length * steps,
      rank: names.length * RANK,
      attentionWeight: 0.01,
      threads: 1,
    },
    onProgress: ({ phase, done }) => {
      if (phase === 'training') onStep?.(done);
    },
  });
  await writeTrained(file, trained);
  return file;
}

/** One folder with the pictures of all concepts, whose captions have each concept's own words. */
function picturesOf(names: readonly ConceptName[]): string {
  const folder = path.join(OUT, names.join('-'));
  mkdirSync(folder, { recursive: true });
  for (const name of names) {
    const own = path.join(packageRoot(), 'fixtures/tiny-world/concepts', name);
    for (const file of readdirSync(own)) {
      const [from, to] = [path.join(own, file), path.join(folder, `${name}-${file}`)];
      if (file.endsWith('.txt')) {
        writeFileSync(to, readFileSync(from, 'utf8').replaceAll(PLACEHOLDER, wordsOf(name)));
      } else copyFileSync(from, to);
    }
  }
  return folder;
}
