/** Rows of a benchmark with goals: what was measured, against what was promised. */

export const seconds = (ms: number): string => `${(ms / 1000).toFixed(ms < 1000 ? 3 : 1)} s`;
export const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

export interface Row {
  readonly what: string;
  readonly measured: string;
  readonly goal: string;
  readonly reached: string;
}

export const row = (what: string, value: string, goal: string, good: boolean): Row => ({
  what,
  measured: value,
  goal,
  reached: good ? 'yes' : 'no',
});
