/** Headers that are none: whatever stands in a file of statistics, it is refused with a reason. */
import { expect, it } from 'vitest';
import { FormatError } from '../../../src/errors.ts';
import { writeSafetensors } from '../../../src/formats/safetensors.ts';
import { openStatistics } from '../../../src/fusion/statistics/statistics-file.ts';
import { scratch } from '../../support/scratch.ts';

const KEY = 'edlora.statistics';

it.each<[string, Record<string, string>, RegExp]>([
  ['no header', {}, /got a safetensors file of another kind/],
  ['no JSON', { [KEY]: '{' }, /header of .* in JSON/],
  ['null', { [KEY]: 'null' }, /of version \d+, got none/],
  ['a recipe that is null', { [KEY]: '{"recipe":null}' }, /of version \d+, got none/],
  ['a version in words', { [KEY]: '{"recipe":{"version":"2"}}' }, /of version \d+, got none/],
  ['another version', { [KEY]: '{"recipe":{"version":1}}' }, /of version \d+, got 1/],
])('%s', async (_, metadata, reason) => {
  const file = scratch('header.stats.safetensors');
  await writeSafetensors(file, [], metadata);
  await expect(openStatistics(file)).rejects.toThrow(FormatError);
  await expect(openStatistics(file)).rejects.toThrow(reason);
});
