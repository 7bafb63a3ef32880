/** A graph as text, one node a line, for snapshots and for looking. */
import type { Graph } from './graph.ts';
import { describe, type Value } from './value.ts';

const attributeText = (attributes: object): string => {
  const entries = Object.entries(attributes);
  return entries.length === 0
    ? ''
    : ` {${entries.map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(', ')}}`;
};

/** Names are shortened to their last part where that is unique by its number, as the builder makes them. */
export function printGraph(graph: Graph): string {
  const short = (value: Value | null): string => (value === null ? '–' : value.name.split('/').at(-1)!);
  const lines = graph.inputs.map((value) => `input ${value.name}: ${describe(value)}`);
  for (const { value, raw } of graph.weights)
    lines.push(`weight ${short(value)}: ${describe(value)} ← ${raw.name}`);
  for (const { value } of graph.constants) lines.push(`constant ${short(value)}: ${describe(value)}`);
  let scope = '';
  for (const node of graph.nodes) {
    const path = node.name.split('/').slice(0, -1).join('/');
    if (path !== scope) lines.push(`# ${path}`);
    scope = path;
    const outputs = node.outputs.map(short).join(', ');
    const inputs = node.inputs.map(short).join(', ');
    lines.push(
      `${outputs} = ${node.op}(${inputs})${attributeText(node.attributes)}: ${node.outputs.map(describe).join(', ')}`,
    );
  }
  for (const [name, value] of graph.outputs)
    lines.push(`output ${name} = ${short(value)}: ${describe(value)}`);
  return lines.join('\n');
}
