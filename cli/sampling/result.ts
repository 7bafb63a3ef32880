/** What `edlora sample` says: the plan of a dry run, and what was drawn. */
import path from 'node:path';
import {
  type ConceptUse,
  type DrawnScene,
  describeParts,
  type EmbeddedPart,
  type PlannedScene,
} from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import type { Io } from '../terminal/io.ts';
import { duration, nearPath, table } from '../terminal/table.ts';

/** What would be drawn. */
export function planText({ scene, model, request }: PlannedScene): string {
  const { prompt, negative, width, height, steps: n, guidance, sampler: name } = scene;
  return [
    `Would draw ${scene.count} of ${width} × ${height} on ${nearPath(model.base.path)}; nothing is written.`,
    '',
    `prompt    ${visible(shownPlace(prompt, scene.embed, scene.states))}`,
    ...(negative || scene.negativeEmbed || scene.negativeStates
      ? [`negative  ${visible(shownPlace(negative, scene.negativeEmbed, scene.negativeStates))}`]
      : []),
    ...(scene.prompt2 ? [`prompt 2  ${visible(scene.prompt2)}`] : []),
    ...(scene.negative2 ? [`negative 2  ${visible(scene.negative2)}`] : []),
    ...scene.regions.map(({ prompt: own, negative: not, box, polygon, mask, embed, states }, i) => {
      const where = box
        ? `box ${box.join(', ')}`
        : polygon
          ? `polygon of ${polygon.length}`
          : nearPath(mask!);
      const acting = placedFiles(model, request.regions?.[i]?.concepts);
      return `region ${i + 1}  ${visible(shownPlace(own, embed, states))} @ ${where}${not ? ` : ${visible(not)}` : ''}${acting}`;
    }),
    ...(request.autoRegions?.regions ?? []).map(
      ({ prompt: own, concepts }, i) =>
        `region ${i + 1}  ${visible(own)} @ where it is found${placedFiles(model, concepts)}`,
    ),
    `${n} steps of ${name}, guidance ${guidance}, seed ${scene.seed}${request.isolate ? `, isolated ${request.isolate}` : ''}`,
    '',
  ].join('\n');
}

/** A prompt, or what stands in its place. */
function shownPlace(prompt: string | undefined, embed?: readonly EmbeddedPart[], states?: string): string {
  if (embed !== undefined) return describeParts(embed);
  if (states !== undefined) return `states of ${nearPath(states)}`;
  return prompt || '(empty)';
}

/** Which files act in a region, where more than one could. */
function placedFiles({ concepts }: PlannedScene['model'], uses: readonly ConceptUse[] = []): string {
  if (concepts.length === 0) return '';
  const names = uses.map(({ concept }) => path.basename(concepts[concept]!.path));
  return ` with ${visible(names.join(', ') || 'no concept')}`;
}

export function resultText(planned: PlannedScene, drawn: DrawnScene, io: Io): string {
  const { pictures, elapsedMs } = drawn;
  const rows = table(
    pictures,
    [
      { title: `pictures in ${nearPath(drawn.folder)}`, value: ({ file }) => path.basename(file) },
      { title: 'seed', value: (picture) => String(picture.seed), align: 'right' },
      { title: 'size', value: ({ width, height }) => `${width} × ${height}`, align: 'right' },
    ],
    io.columns,
  );
  const { steps: n, sampler: name, guidance } = planned.scene;
  const each = duration(elapsedMs / pictures.length);
  return [
    `${rows}${drawn.grid === null ? '' : `all of them: ${nearPath(drawn.grid)}\n`}`,
    ...drawn.scenes.map((file) => `places, to edit and draw again: ${nearPath(file)}`),
    `${n} steps of ${name}, guidance ${guidance}; ${each} a picture.`,
    '',
  ].join('\n');
}
