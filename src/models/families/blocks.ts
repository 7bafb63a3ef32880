/** Names of a UNet's blocks in the community's notation: `IN01`, `MID`, `OUT11`. */
export function blockNames(inputs: readonly number[], outputs: readonly number[]): readonly string[] {
  const numbered = (part: string, indices: readonly number[]): string[] =>
    indices.map((i) => `${part}${String(i).padStart(2, '0')}`);
  return ['BASE', ...numbered('IN', inputs), 'MID', ...numbered('OUT', outputs)];
}

/** `D00`, `D01`, …, both ends included. */
export function blockNumbers(part: string, from: number, to: number): string[] {
  return range(from, to).map((i) => `${part}${String(i).padStart(2, '0')}`);
}

/** Whole numbers, both ends included. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}
