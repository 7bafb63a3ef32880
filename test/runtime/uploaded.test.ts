import { expect, it } from 'vitest';
import type { Runtime } from '../../src/runtime/runtime.ts';
import { RepeatedFeeds } from '../../src/runtime/uploaded.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';

it('what is fed again is moved once, and freed when something else is fed in its place or at the end', () => {
  const events: string[] = [];
  const named = (value: number): Tensor => float32([1], Float32Array.of(value));
  const runtime = {
    upload: ({ dtype, shape, data }: Tensor) => {
      events.push(`there: ${data[0]}`);
      return { dtype, shape, dispose: () => events.push(`freed: ${data[0]}`) };
    },
  } as unknown as Runtime;
  const repeated = new RepeatedFeeds(runtime);
  const [text, mask] = [named(1), named(2)];
  const feed = (sample: Tensor, own: Tensor) =>
    repeated.of([
      ['text', text],
      ['mask', own],
      ['sample', sample],
    ]);
  const sample = named(3);
  expect(feed(sample, mask)).toEqual({ text, mask, sample });
  const again = feed(named(4), mask);
  expect('data' in again.text! || 'data' in again.mask!).toBe(false);
  expect('data' in again.sample!).toBe(true);
  expect(feed(named(5), mask).text).toBe(again.text);
  const other = named(6);
  expect(feed(named(7), other).mask).toBe(other);
  expect(events).toEqual(['there: 1', 'there: 2', 'freed: 2']);
  repeated.dispose();
  expect(events.at(-1)).toBe('freed: 1');
  expect(feed(sample, mask).text).toBe(text);
});
