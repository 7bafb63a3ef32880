/** Prompts with a word in several places and contexts, `{}` for it: what is learnt under them holds under others. */
export const CONTEXTS: readonly string[] = [
  'photo of a {}',
  '{}',
  'a {} on a table',
  'a photo of a {} in a garden',
  'a picture of a {} at night',
  'two of them, a {} and a dog',
  'a small {} on a white background',
  'close up of the {}',
  'a drawing of a {}',
  'a cat beside a {}',
  '{}, soft light',
  'a large {} in front of a blue wall',
  'painting of {} by the sea',
  'the {} to the left of a red ball',
  'a rendering of a {} on a gray background',
  'a {} and a tree',
];
