import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { printable } from '../cli/terminal/io.ts';
import { escapeHtml } from '../src/charts/html.ts';
import { lineChart } from '../src/charts/line-chart.ts';
import { visible, visibleLines } from '../src/visible.ts';

/** Title, screen, a forged line, carriage return, C1's CSI, right-to-left override, zero width, separators, half a pair. */
const HOSTILE =
  '\x1b]0;title\x07\x1b[2J\r\nerror: forged\x9b31m\u202egnp.exe\u200b\u2028\u2066\ud800\x7f\ufeff\u{e0041}';
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;

describe('text of files', () => {
  it('becomes one line that steers nothing and still tells what it was', () => {
    const shown = visible(HOSTILE);
    expect(shown).not.toMatch(UNSEEN);
    expect(shown).toContain('\\u001b]0;title\\u0007');
    expect(shown).toContain('\\u000d\\u000aerror: forged\\u009b31m\\u202egnp.exe');
    expect(JSON.parse(`"${shown}"`)).toBe(HOSTILE);
    expect(visible(shown)).toBe(shown);
    expect(visible('<smiley1> ünï 猫 😀')).toBe('<smiley1> ünï 猫 😀');
  });

  it('of any kind', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(visible(text)).not.toMatch(UNSEEN);
        expect(visibleLines(text).replace(/[\n\t]/g, '')).not.toMatch(UNSEEN);
        // A document stays the same document, and its value the same value.
        expect(JSON.parse(printable(JSON.stringify({ text }), true))).toEqual({ text });
      }),
    );
  });

  it('brings no colour of its own to the terminal', () => {
    expect(printable('\x1b[31merror:\x1b[39m ok\n', true)).toBe('\x1b[31merror:\x1b[39m ok\n');
    expect(printable('\x1b[31merror:', false)).toBe('\\u001b[31merror:');
    expect(printable('\x1b[8mhidden\x1b[2K\r', true)).toBe('\\u001b[8mhidden\\u001b[2K\\u000d');
  });

  it('is visible in pages and figures too', () => {
    expect(escapeHtml(`<b>\u202e${HOSTILE}`).replace(/\n/g, '')).not.toMatch(UNSEEN);
    const chart = lineChart({
      title: HOSTILE,
      series: [
        {
          name: HOSTILE,
          points: [
            { x: 0, y: 1 },
            { x: 1, y: 2 },
          ],
        },
      ],
      xLabel: 'x',
      yLabel: 'y',
    });
    expect(chart.replace(/[\n\t]/g, '')).not.toMatch(UNSEEN);
  });
});
