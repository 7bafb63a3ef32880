/** RGB pictures in memory: what the shapeland drawing makes and the detectors look at. */
import sharp from 'sharp';

export interface Picture {
  readonly width: number;
  readonly height: number;
  /** [H, W, 3], 0 … 255. */
  readonly data: Uint8Array;
}

/** Read a picture file as RGB; an alpha channel is dropped. */
export async function readPicture(file: string): Promise<Picture> {
  const { data, info } = await sharp(file)
    .removeAlpha()
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, data: new Uint8Array(data) };
}

/** The rectangle at (left, top); it must lie inside the picture. */
export function crop(picture: Picture, left: number, top: number, width: number, height: number): Picture {
  if (left < 0 || top < 0 || left + width > picture.width || top + height > picture.height) {
    throw new RangeError(
      `crop: [${left}, ${top}, ${width}, ${height}] leaves ${picture.width}x${picture.height}`,
    );
  }
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * picture.width + left) * 3;
    data.set(picture.data.subarray(from, from + width * 3), y * width * 3);
  }
  return { width, height, data };
}
