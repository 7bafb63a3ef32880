/** What `edlora deproject` and `edlora sample` read alike: texts and pictures with weights. */
import { type EmbeddedPart, parseEmbedded } from '../../src/index.ts';
import { texts } from '../options.ts';

/** `--embed "maid:0.7"` and `--embed-image photo.png:0.5`, in the order texts, pictures. */
export function embeddedParts(
  args: Readonly<Record<string, unknown>>,
  names: { readonly text: string; readonly image: string },
): EmbeddedPart[] {
  const of = (name: string) => texts(args, name).map(parseEmbedded);
  return [
    ...of(names.text).map(({ value, weight }) => ({ text: value, weight })),
    ...of(names.image).map(({ value, weight }) => ({ image: value, weight })),
  ];
}
