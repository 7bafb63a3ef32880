/** A fusion's progress on one line. */
import type { FusionProgress } from '../../src/index.ts';
import type { Io } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';

/** A fusion's progress in words; denoising runs count their steps. */
export function fusionProgress(
  io: Io,
  steps: number,
): { show: (progress: FusionProgress) => void; finish: () => void } {
  const line = new ProgressLine(io);
  const verbs = {
    collect: 'collecting',
    preserve: 'preserving',
    'hold out': 'holding out',
    solve: 'solving',
    refine: 'refining',
  } as const;
  let running = '';
  let step = 0;
  return {
    show: ({ stage, action, subject, ...done }) => {
      const group = `${stage} ${action}`;
      step = running === `${group} ${subject}` ? (step % steps) + 1 : 1;
      running = `${group} ${subject}`;
      const denoising = stage === 'spatial' && action !== 'solve' && action !== 'refine';
      const stepCount = denoising ? `, step ${step} of ${steps}` : '';
      const activity = `${stage}: ${verbs[action]} ${subject || 'the empty prompt'}${stepCount}`;
      line.update({ activity, ...done }, group);
    },
    finish: () => line.finish(),
  };
}
