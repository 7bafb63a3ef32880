import { describe, expect, it } from 'vitest';
import { SlowestStep } from '../../src/sampling/slowest-step.ts';
import { Turns } from '../../src/sampling/turns.ts';
import { float32 } from '../../src/tensor/tensor.ts';

const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('pictures that take turns', () => {
  /** Draws pictures whose calls need the networks that are named; says in what order they were loaded. */
  async function loaded(pictures: readonly string[]): Promise<string> {
    const turns = new Turns();
    let [order, running] = ['', 0];
    const draw = async (picture: string): Promise<string> => {
      let own = '';
      for (const kind of picture) {
        await pause();
        own += await turns.take(kind, async () => {
          expect(++running).toBe(1);
          await pause();
          running--;
          if (order.at(-1) !== kind) order += kind;
          return kind;
        });
      }
      return own;
    };
    const done = await Promise.all(pictures.map((picture) => turns.member(() => draw(picture))));
    expect(done).toEqual(pictures);
    return order;
  }

  it('load what each asks for in turn once', async () => {
    expect(await loaded(['aabbba', 'aabbba', 'aabbba'])).toBe('aba');
  });

  it('end, whatever each asks for', async () => {
    expect(await loaded(['ab', 'ba', 'c'])).toMatch(/^[abc]+$/);
  });

  it('end at once where one fails, which is said', async () => {
    const turns = new Turns();
    let others = 0;
    const failing = turns.member(async () => {
      await turns.take('a', async () => {});
      throw new Error('no number');
    });
    const waiting = turns.member(async () => {
      for (;;) {
        await turns.take('b', pause);
        others++;
      }
    });
    await expect(failing).rejects.toThrow('no number');
    await expect(waiting).rejects.toThrow('no number');
    expect(others).toBe(0);
  });
});

it('a step of pictures side by side is done when all have done it, and shows the first', () => {
  const told: [number, number][] = [];
  const steps = new SlowestStep([4, 5], ({ done, predicted }) => {
    told.push([done, predicted.data[0]!]);
  });
  const step = (index: number, done: number): void =>
    void steps.of(index)({ done, calls: 3, predicted: float32([1], Float32Array.of(10 * index + done)) });
  step(4, 1);
  step(4, 2);
  step(5, 1);
  step(5, 2);
  step(5, 3);
  step(4, 3);
  expect(told).toEqual([
    [1, 42],
    [2, 42],
    [3, 43],
  ]);
});
