/** What `edlora inspect` says of adapters beyond their tensors: blocks, norms, hashes. */
import { statSync } from 'node:fs';
import { EdloraError } from '../../src/errors.ts';
import {
  type AdapterReport,
  describeAdapter,
  type FileHashes,
  familyNamed,
  fileHashes,
  loadAdapter,
} from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import type { Io } from '../terminal/io.ts';
import { table } from '../terminal/table.ts';

export interface AdapterInspection extends AdapterReport {
  /** Names by which web interfaces and model sites know the file; `null` for folders, and without --hash. */
  readonly hashes: FileHashes | null;
}

/** `null` for what is no adapter, and the reason where it seems to be one that cannot be used. */
export async function inspectAdapter(
  location: string,
  hash: boolean,
  signal?: AbortSignal,
): Promise<{ adapter: AdapterInspection | null; refusal: string | null }> {
  try {
    const report = await describeAdapter(await loadAdapter(location), undefined, signal);
    if (report.blocks.length === 0 && report.unusable.length === 0) return { adapter: null, refusal: null };
    const hashes = hash && statSync(location).isFile() ? await fileHashes(location, signal) : null;
    return { adapter: { ...report, hashes }, refusal: null };
  } catch (error) {
    if (error instanceof EdloraError) return { adapter: null, refusal: error.message };
    throw error;
  }
}

/** Hashes on a line each, then blocks as a table. */
export function adapterText(
  io: Io,
  { scheme, architecture, kinds, blocks, unusable, hashes }: AdapterInspection,
): string {
  const lines = [
    `scheme       ${scheme}, ${familyNamed(architecture).title}: ${Object.entries(kinds)
      .map(([kind, count]) => `${count} ${kind}`)
      .join(', ')}`,
  ];
  if (hashes !== null) {
    const { autoV1, autoV2, autoV3 } = hashes;
    lines.push(
      `hashes       AutoV2 ${autoV2}${autoV3 === null ? '' : `, AutoV3 ${autoV3}`}, AutoV1 ${autoV1}`,
    );
    if (hashes.sshsModel !== null) lines.push(`sshs         ${hashes.sshsModel}`);
  }
  if (unusable.length > 0)
    lines.push(
      `unusable     ${unusable.length} entries, e.g. ${visible(unusable[0]!.name)}: ${visible(unusable[0]!.reason)}`,
    );
  const numbers = (values: readonly number[]): string =>
    values.length === 0 ? '–' : values.length > 4 ? `${values[0]}–${values.at(-1)}` : values.join(', ');
  const rows = table(
    blocks,
    [
      { title: 'block', value: ({ block }) => block },
      { title: 'layers', value: ({ layers }) => String(layers), align: 'right' },
      { title: 'rank', value: ({ ranks }) => numbers(ranks), align: 'right' },
      {
        title: 'alpha',
        value: ({ loraAlphas }) => numbers(loraAlphas.map((value) => Number(value.toPrecision(4)))),
        align: 'right',
      },
      {
        title: 'norm',
        value: ({ norm, unmeasured, layers }) => (unmeasured === layers ? '–' : norm.toPrecision(3)),
        align: 'right',
      },
    ],
    io.columns - 2,
  );
  return `${[...lines, ...rows.trimEnd().split('\n')].map((line) => `  ${line}`).join('\n')}\n`;
}
