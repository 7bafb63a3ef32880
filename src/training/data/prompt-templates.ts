/**
 * Sentences around a concept's words, for concepts without captions.
 * Source: Gal et al. 2022 (2208.01618), appendix, after Radford et al. 2021; `{}` stands for the words.
 */
const adjectives = ['clean', 'dirty', 'nice', 'small', 'large', 'weird', 'cool'] as const;

export const PROMPT_TEMPLATES: Readonly<Record<'object' | 'style', readonly string[]>> = {
  object: [
    'a photo of a {}',
    'a rendering of a {}',
    'a cropped photo of the {}',
    'the photo of a {}',
    'a dark photo of the {}',
    'a photo of my {}',
    'a close-up photo of a {}',
    'a bright photo of the {}',
    'a good photo of a {}',
    'a photo of one {}',
    'a rendition of the {}',
    'a depiction of a {}',
    ...adjectives.flatMap((word) => [`a photo of a ${word} {}`, `a photo of the ${word} {}`]),
  ],
  style: [
    'a painting in the style of {}',
    'a rendering in the style of {}',
    'a cropped painting in the style of {}',
    'the painting in the style of {}',
    'a dark painting in the style of {}',
    'a picture in the style of {}',
    'a close-up painting in the style of {}',
    'a bright painting in the style of {}',
    'a good painting in the style of {}',
    'a rendition in the style of {}',
    ...adjectives.map((word) => `a ${word} painting in the style of {}`),
  ],
};
