/** A matrix of numbers as coloured cells. */
import * as Plot from '@observablehq/plot';
import { type ChartTitle, renderSvg, textWidth } from './svg.ts';

export interface HeatMapOptions extends ChartTitle {
  /** Names of the rows, top to bottom; each once. */
  readonly rows: readonly string[];
  /** Names of the columns, left to right; each once. */
  readonly columns: readonly string[];
  /** [row][column]; null draws an empty cell. Values outside the domain take its end's colour. */
  readonly values: readonly (readonly (number | null)[])[];
  /** Values of the two ends of the colour scale; default: smallest and largest value. */
  readonly domain?: readonly [number, number];
  readonly rowLabel?: string;
  readonly columnLabel?: string;
  /** Number in a cell and its tooltip; default two decimals. */
  readonly format?: (value: number) => string;
  /** Pixels; default 720. */
  readonly width?: number;
}

interface Cell {
  readonly row: string;
  readonly column: string;
  readonly value: number | null;
}
type Filled = Cell & { readonly value: number };

/** Cells narrower than this show their number only as a tooltip. */
const NUMBER_CELL = 34;
/** Columns narrower than this are named by tooltips alone. */
const NAMED_CELL = 11;

/** Draw a heat map as an SVG string. Every cell has a tooltip; numbers are printed where they have room. */
export function heatMap(options: HeatMapOptions): string {
  const { rows, columns, values, format = (value) => value.toFixed(2), width = 720 } = options;
  const cells: Cell[] = rows.flatMap((row, i) =>
    columns.map((column, j) => ({ row, column, value: values[i]?.[j] ?? null })),
  );
  const filled = cells.filter((cell): cell is Filled => cell.value !== null);
  const known = filled.map(({ value }) => value);
  const place = { x: 'column', y: 'row' } as const;
  const [low, high] =
    options.domain ?? (known.length === 0 ? [0, 1] : [Math.min(...known), Math.max(...known)]);
  const share = (value: number): number => (high > low ? (value - low) / (high - low) : 0.5);
  const marginLeft = Math.max(...rows.map(textWidth), 0) + (options.rowLabel ? 32 : 14);
  const cellWidth = (width - marginLeft - 10) / Math.max(1, columns.length);
  const cellHeight = Math.max(16, Math.min(30, cellWidth));
  const longest = Math.max(...columns.map(textWidth), 0);
  const turned = longest > cellWidth;
  const named = cellWidth >= NAMED_CELL;
  const marginBottom = (named ? (turned ? longest + 8 : 26) : 8) + (options.columnLabel ? 18 : 0);
  return renderSvg(options, {
    width,
    height: 20 + rows.length * cellHeight + marginBottom,
    marginLeft,
    marginRight: 10,
    marginTop: 20,
    marginBottom,
    padding: 0.04,
    x: {
      domain: columns,
      label: options.columnLabel ?? null,
      tickRotate: turned ? -90 : 0,
      tickSize: 0,
      ...(named ? {} : { ticks: [] }),
    },
    y: { domain: rows, label: options.rowLabel ?? null, tickSize: 0 },
    color: { type: 'linear', scheme: 'viridis', domain: [low, high], clamp: true },
    marks: [
      Plot.cell(filled, {
        ...place,
        fill: 'value',
        title: ({ row, column, value }: Filled) => `${row} · ${column}: ${format(value)}`,
      }),
      Plot.cell(
        cells.filter(({ value }) => value === null),
        {
          ...place,
          fill: 'none',
          stroke: 'gray',
          strokeOpacity: 0.3,
          pointerEvents: 'all',
          title: ({ row, column }: Cell) => `${row} · ${column}: none`,
        },
      ),
      ...(cellWidth >= NUMBER_CELL
        ? [
            Plot.text(filled, {
              ...place,
              text: ({ value }: Filled) => format(value),
              fill: ({ value }: Filled) => (share(value) > 0.55 ? 'black' : 'white'),
              pointerEvents: 'none',
            }),
          ]
        : []),
    ],
  });
}
