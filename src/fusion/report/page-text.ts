/** Numbers and names as a fusion's page shows them. */

export const percent = (share: number): string =>
  `${share < 0 ? '−' : ''}${Math.abs(Math.round(100 * share))} %`;
export const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
/** `160`, `2.7e9` */
export const large = (value: number): string =>
  value < 1e5 ? String(Math.round(value)) : value.toExponential(1).replace('+', '');
/** Longer names would take the room of the charts. */
const LONGEST_LABEL = 26;

/** `down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q` → `down 0.1 attn1.q`. */
export function shortLayerName(layerName: string): string {
  return layerName
    .replace(/^text_model\.encoder\.layers\.(\d+)\./, 'layer $1 ')
    .replace(/^(down|up)_blocks\.(\d+)\.attentions\.(\d+)\./, '$1 $2.$3 ')
    .replace(/^(down|up)_blocks\.(\d+)\.resnets\.(\d+)\./, '$1 $2 res$3 ')
    .replace(/^mid_block\.attentions\.(\d+)\./, 'mid $1 ')
    .replace(/transformer_blocks\.0\./, '')
    .replace(/self_attn\./, '')
    .replace(/\.to_(q|k|v)$/, '.$1')
    .replace(/\.to_out\.0$/, '.out')
    .replace(/_proj$/, '');
}

/** Names as axis labels: short, each once. */
export function numbered(names: readonly string[]): string[] {
  const short = names.map((name) =>
    name.length > LONGEST_LABEL ? `${name.slice(0, LONGEST_LABEL - 1)}…` : name,
  );
  return short.map((name, i) => (short.indexOf(name) === i ? name : `${name} (${i + 1})`));
}
