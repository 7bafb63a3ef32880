/** Which layers a PEFT configuration means; expected values are those of Python's `re.match(rf"(.*\.)?({key})$", name)`. */
import { describe, expect, it } from 'vitest';
import { peftScale, peftScaling } from '../../src/adapters/schemes/peft-names.ts';

const NAMES = [
  'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k',
  'to_k',
  'up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0',
];
const config = (more: object): Record<string, unknown> => ({
  peft_type: 'LORA',
  r: 2,
  lora_alpha: 4,
  ...more,
});

describe('patterns of ranks and alphas', () => {
  it.each([
    ['to_k', [true, true, false]],
    ['^to_k', [false, true, false]],
    ['^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k', [true, false, false]],
    ['attn1\\.to_k$', [true, false, false]],
    ['o_k', [false, false, false]],
    ['attn[12].to_k', [true, false, false]],
    ['down_blocks.*to_k', [true, false, false]],
    ['.*attn2.*', [false, false, true]],
    ['to_(q|k)', [true, true, false]],
    ['to_out.0', [false, false, true]],
    ['\\d', [false, false, true]],
    ['transformer_blocks.\\d+.attn1.to_k', [true, false, false]],
  ])('%s', (key, matches) => {
    const scaling = peftScaling('a', config({ alpha_pattern: { [key]: 32 } }));
    expect(NAMES.map((name) => peftScale('a', scaling, name, 2) === 16)).toEqual(matches);
  });

  it('are taken in their order', () => {
    const scaling = peftScaling('a', config({ alpha_pattern: { 'attn1.to_k': 8, to_k: 32 } }));
    expect([peftScale('a', scaling, NAMES[0]!, 2), peftScale('a', scaling, 'to_k', 2)]).toEqual([4, 16]);
  });

  it.each(['(a+)+', '(.*)*', 'a{2,}', '(?=to_k)', '.*.*.*x', 'to_k**', '[a', '\\1', 'a++', ''])(
    'that could run away, or mean something else here, are refused: %s',
    (key) => {
      expect(() => peftScaling('a', config({ rank_pattern: { [key]: 4 } }))).toThrow('expected layer names');
    },
  );
});

describe('the start of an adapter', () => {
  it.each([undefined, true, false, 'gaussian', 'eva', 'orthogonal'])(
    '%s leaves the base as it is',
    (start) => {
      expect(peftScaling('a', config({ init_lora_weights: start })).r).toBe(2);
    },
  );
  it.each(['pissa', 'pissa_niter_4', 'olora', 'corda', 'loftq', 'lora_ga', 'whatever'])(
    '%s was taken out of the base: refused with the way out',
    (start) => {
      expect(() => peftScaling('a', config({ init_lora_weights: start }))).toThrow(
        /init_lora_weights: .*path_initial_model_for_weight_conversion/,
      );
    },
  );
});
