/**
 * diffusers' own parameter names, our canonical ones, and their older spellings in files that are still about.
 */
import { withTextModel } from './module-path.ts';

const oldVaeAttention: Readonly<Record<string, string>> = {
  query: 'to_q',
  key: 'to_k',
  value: 'to_v',
  proj_attn: 'to_out.0',
};

/** VAE parameter name with today's attention names: files up to diffusers 0.17 say `query`, `key`, `value`, `proj_attn`. */
export function canonicalVaeName(paramName: string): string {
  return paramName.replace(
    /(\.attentions\.\d+\.)(query|key|value|proj_attn)(?=\.)/,
    (_, before: string, name: string) => before + oldVaeAttention[name]!,
  );
}

/** Text encoder parameter name with the `text_model.` level. */
export function canonicalTextEncoderName(paramName: string): string {
  return withTextModel(paramName);
}
