/** What is refused before a fusion begins. */
import { expect, it } from 'vitest';
import type { LoraNaming } from '../../src/concepts/lora-file.ts';
import { checkFusionTarget } from '../../src/fusion/output.ts';
import { scratchFolder } from '../formats/scratch-folder.ts';

const scratch = scratchFolder();

it('words alone in names that hold none', () => {
  const check = (naming: LoraNaming, layers: boolean) => () =>
    checkFusionTarget(scratch('fused'), {
      naming,
      layers,
      words: true,
      inputs: [],
      checkpoint: false,
      force: false,
    });
  for (const naming of ['kohya', 'diffusers', 'peft'] as const) {
    expect(check(naming, false)).toThrow(/no layer changes here, and files in \w+ names hold no words/);
    check(naming, true)();
  }
  check('ed-lora', false)();
});
