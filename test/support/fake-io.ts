/** A command line's streams as strings. */
import type { Io } from '../../cli/terminal/io.ts';

export interface FakeIo extends Io {
  readonly written: { out: string; err: string };
}

export function fakeIo(settings: Partial<Pick<Io, 'interactive' | 'columns' | 'colour'>> = {}): FakeIo {
  const written = { out: '', err: '' };
  return {
    interactive: false,
    columns: 80,
    colour: false,
    ...settings,
    written,
    out: (text) => {
      written.out += text;
    },
    err: (text) => {
      written.err += text;
    },
    redraw: (line) => {
      written.err += `\r\x1b[2K${line}`;
    },
  };
}
