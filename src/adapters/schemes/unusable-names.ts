/** Entries that are known and that no LoRA can hold: what they are, by name. They are left out only if the user says so. */
import { splitName } from './suffixes.ts';

const kinds: readonly (readonly [RegExp, string])[] = [
  [/\.(oft_blocks|oft_diag|boft_blocks|rescale|constraint)$/, 'OFT/BOFT: a rotation of the weight'],
  [/\.(a1|a2|b1|b2|bm)\.weight$/, 'GLoRA'],
  [
    /\.(w_norm|b_norm)$|(^|[._])(layer_|group_|final_layer_)?norm(\d|_out)?\.[\w.]+$/,
    'a normalisation layer',
  ],
  // The original's, which are numbered like layers.
  [/(^|[._])((in|out)_layers|(?<!to[._])out)[._]0\.\w+$/, 'a normalisation layer'],
  [/\.(bias_(indices|values|size))$/, 'a sparse bias of LyCORIS'],
  [/\.set_weight$/, 'a whole weight in place of the base’s'],
  [/\.modules_to_save\.|\.original_module\./, 'a module that was trained as a whole (modules_to_save)'],
  [/trainable_tokens_(delta|original)|token_adapter/, 'trained tokens: rows of the token embedding'],
  [/lora_embedding_[AB]|(token|position)_embedding[._]/, 'the table of token embeddings, or a LoRA of it'],
  [/^emb_params$/, 'an embedding without a name of its own'],
  [/[._]bias$/, 'a trained bias'],
];

/** Why an entry is not usable; `null` for a name that says nothing. */
export function unusableName(name: string): string | null {
  return kinds.find(([pattern]) => pattern.test(name))?.[1] ?? null;
}

/** What is said of an entry of which nothing is known. */
export function unknownName(name: string): string {
  return splitName(name) === null && /\.weight$/.test(name)
    ? 'a whole weight, not a change of one'
    : 'no known layer of this model';
}
