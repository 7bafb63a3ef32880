import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { similarities } from '../../src/evaluation/similarity.ts';
import type { Picture } from '../../src/formats/picture.ts';
import { readBytes, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import { ClipEncoder, type Embeddings, normalised } from '../../src/models/clip/clip-encoder.ts';
import { openClipModel } from '../../src/models/clip/clip-model.ts';
import { loadTokenizer } from '../../src/models/clip/tokenizer.ts';
import { fitPicture, writePixelValues } from '../../src/models/clip/vision-preprocessor.ts';
import { resizeBicubic } from '../../src/models/clip/vision-resize.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/image-metrics';
interface Index {
  images: { width: number; height: number; resized: [number, number]; crop_top_left: [number, number] }[];
  prompts: string[];
  input_ids: number[][];
  logit_scale_exp: number;
  image_mean: [number, number, number];
  image_std: [number, number, number];
}
const index = goldenJson<Index>(FOLDER, 'images.json');

let golden: TensorFile;
let encoder: ClipEncoder;
beforeAll(async () => {
  golden = await openSafetensors(goldenPath(FOLDER, 'images.safetensors'));
  const tokenizer = await loadTokenizer(goldenPath('goldens-fusion/fusion/base_model/tokenizer'));
  encoder = new ClipEncoder(await openClipModel(goldenPath(FOLDER, 'clip'), { tokenizer }), { batch: 2 });
});
afterAll(() => encoder.dispose());

function values(name: string): Float32Array {
  return readFloat32(golden.tensors.get(name)!);
}
function picture(name: string): Picture {
  const raw = golden.tensors.get(name)!;
  const [height, width] = raw.shape as [number, number];
  return { width, height, data: readBytes(raw) };
}
/** Within 1e-5 of the largest value: the goldens' own tolerance. */
function expectSame(actual: Embeddings, name: string): void {
  const expected = values(name);
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expect(actual.data).toBeAllClose(expected, { rtol: 0, atol: 1e-5 * largest });
}

describe('preparation of pictures', () => {
  const each = index.images.map((image, q) => [`${image.width} × ${image.height}`, q, image] as const);

  it.each(each)('%s: Pillow’s bicubic to the last bit, then its crop', (_, q, { resized }) => {
    const [width, height] = resized;
    const original = picture(`image${q}|rgb_u8`);
    expect(resizeBicubic(original, { width, height })).toEqual(picture(`image${q}|pil_bicubic_u8`));
    expect(fitPicture(original, encoder.model.preprocessor)).toEqual(picture(`image${q}|crop_u8`));
  });

  it('resizes to a shape that does not keep the proportions', () => {
    for (const name of golden.tensors.keys()) {
      const match = /^(image\d+)\|direct_(\d+)x(\d+)_bicubic_u8$/.exec(name);
      if (match === null) continue;
      const size = { height: Number(match[2]), width: Number(match[3]) };
      expect(resizeBicubic(picture(`${match[1]}|rgb_u8`), size)).toEqual(picture(name));
    }
    expect.hasAssertions();
  });

  it('normalises with the numbers of the model’s own file', () => {
    const { preprocessor } = encoder.model;
    expect(preprocessor).toMatchObject({ mean: index.image_mean, std: index.image_std });
    const expected = golden.tensors.get('pixel_values')!;
    const actual = new Float32Array(expected.shape.reduce((a, b) => a * b, 1));
    let offset = 0;
    for (const q of index.images.keys()) {
      offset += writePixelValues(picture(`image${q}|rgb_u8`), preprocessor, actual, offset);
    }
    expect(offset).toBe(actual.length);
    expect(actual).toBeAllClose(readFloat32(expected), { rtol: 1e-6, atol: 1e-6 });
  });
});

describe('embeddings', () => {
  it('of pictures, before and after normalising, whatever the batch', async () => {
    const pictures = index.images.map((_, q) => picture(`image${q}|rgb_u8`));
    const features = await encoder.pictureFeatures(pictures);
    expectSame(features, 'image_embeds_unnormalised');
    expectSame(normalised(features), 'image_embeds');
    expectSame(await encoder.pictures(pictures), 'image_embeds');
  });

  it('of texts, from ids and from prompts padded to all positions', async () => {
    expectSame(await encoder.textFeaturesOfIds(index.input_ids), 'text_embeds_unnormalised');
    const texts = await encoder.textFeatures(index.prompts);
    expectSame(texts, 'text_embeds_unnormalised');
    expectSame(normalised(texts), 'text_embeds');
  });

  it('have the library’s similarities', async () => {
    const pictures = await encoder.pictures(index.images.map((_, q) => picture(`image${q}|rgb_u8`)));
    const texts = await encoder.texts(index.prompts);
    const clipI = similarities(pictures, pictures);
    const clipT = similarities(pictures, texts);
    expect(clipI).toBeAllClose(values('clip_i'), { rtol: 0, atol: 1e-5 });
    expect(clipT).toBeAllClose(values('clip_t'), { rtol: 0, atol: 1e-5 });
    const logits = clipT.map((value) => value * index.logit_scale_exp);
    expect(logits).toBeAllClose(values('logits_per_image'), { rtol: 1e-4, atol: 1e-3 });
  });
});
