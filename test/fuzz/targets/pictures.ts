/** Pictures: size, pixels, brightness, alpha, the texts and the scene in them. */
import sharp from 'sharp';
import { pictureSize, readAlphaChannel, readGrayPicture, readPicture } from '../../../src/formats/picture.ts';
import { encodePng, readPngTexts } from '../../../src/formats/png.ts';
import { readPictureScene } from '../../../src/sampling/picture-recipe.ts';
import { normalScene } from '../../../src/sampling/scene.ts';
import { attempt, type Input, type Seed, type Target } from '../target.ts';
import { seedFile } from './seeds.ts';

const SIDE = 12;
const pixels = Uint8Array.from({ length: SIDE * SIDE * 3 }, (_, i) => (i * 7) & 255);
const picture = { width: SIDE, height: SIDE, data: pixels };

/** A plain picture. */
export const PNG = await encodePng(picture);

const SCENE = JSON.stringify({
  ...{ tool: 'edlora', version: '0.1.0' },
  scene: {
    prompt: 'a',
    concepts: [],
    loras: [],
    regions: [{ prompt: 'b', box: [0, 0, 1, 1] }],
    steps: 3,
    seed: 1,
  },
});

// Tiny pictures gain nothing from threads, and no two are alike.
sharp.concurrency(1);
sharp.cache(false);

const readers = [
  pictureSize,
  readGrayPicture,
  readAlphaChannel,
  readPicture,
  (file: string) => readPicture(file, { width: 8, height: 8 }),
] as const;

/** Two of the readers, by chance. */
async function exercise({ file, random }: Input): Promise<void> {
  await attempt(() => random.pick(readers)(file));
  await random.pick(readers)(file);
}

const png: Target = {
  name: 'png',
  batch: 200,
  words: ['prompt', 'regions', 'scene', 'version', 'base', 'seed'],
  seeds: async (): Promise<Seed[]> => {
    const alpha = sharp(pixels, { raw: { width: SIDE, height: SIDE, channels: 3 } }).ensureAlpha(0.5);
    return [
      [
        seedFile(
          'a.png',
          'png',
          await encodePng(picture, { parameters: 'a\nSteps: 3, Seed: 1', 'edlora.scene': SCENE }),
        ),
      ],
      [
        seedFile(
          'b.png',
          'png',
          await encodePng(picture, { parameters: 'ü 你', 'edlora.scene': SCENE.replace('"a"', '"你"') }),
        ),
      ],
      [seedFile('alpha.png', 'png', await alpha.png().toBuffer())],
      [seedFile('palette.png', 'png', await alpha.png({ palette: true }).toBuffer())],
      [seedFile('deep.png', 'png', await alpha.toColourspace('rgb16').png({ progressive: true }).toBuffer())],
    ];
  },
  run: async (input) => {
    await attempt(() => readPngTexts(input.file));
    await attempt(async () => normalScene(await readPictureScene(input.file), (file) => file));
    await exercise(input);
  },
};

const compressed = (name: 'jpeg' | 'webp'): Target => ({
  name,
  batch: 200,
  seeds: async (): Promise<Seed[]> => {
    const image = sharp(pixels, { raw: { width: SIDE, height: SIDE, channels: 3 } });
    const turned = image.clone().withMetadata({ orientation: 6 });
    return [
      [seedFile(`a.${name}`, 'binary', await image.clone().toFormat(name).toBuffer())],
      [seedFile(`b.${name}`, 'binary', await turned.toFormat(name).toBuffer())],
      [
        seedFile(
          `c.${name}`,
          'binary',
          await (name === 'jpeg'
            ? image.jpeg({ progressive: true, chromaSubsampling: '4:4:4' })
            : image.ensureAlpha(0.5).webp({ lossless: true })
          ).toBuffer(),
        ),
      ],
    ];
  },
  run: exercise,
});

export const pictureTargets: readonly Target[] = [png, compressed('jpeg'), compressed('webp')];
