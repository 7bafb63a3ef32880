/** A fusion's report as a page for people: what was kept, who fights whom, where, and what it was made of. */
import { html } from '../../charts/html.ts';
import { page } from '../../charts/page.ts';
import { inOneGo, type Steps } from '../../pace.ts';
import type { FusionRecipe } from '../recipe.ts';
import { STAGES } from '../stage.ts';
import { collisionSection, FEW_CONCEPTS, keptSection } from './concept-sections.ts';
import { choiceSections, lossSection, refinementSection } from './course-sections.ts';
import { stageSection, truncationSection, worstSection } from './layer-sections.ts';
import { costSection, recipeSection } from './origin-sections.ts';
import type { FusionReport } from './report.ts';
import { fusionVerdict } from './verdict.ts';

/**
 * The whole document: one file that loads nothing.
 * @param recipe what the fusion was made of, if known
 */
export function fusionReportPage(report: FusionReport, recipe: FusionRecipe | null): string {
  return inOneGo(fusionReportPageSteps(report, recipe));
}

/** `fusionReportPage` in steps: drawing takes tens of milliseconds a section. */
export function* fusionReportPageSteps(report: FusionReport, recipe: FusionRecipe | null): Steps<string> {
  const names = report.concepts.map(({ name }) => name);
  const parts = [
    () => [keptSection(report)],
    () => [collisionSection(report, names)],
    ...STAGES.map((stage) => () => stageSection(report, stage, names)),
    () => [worstSection(report, names)],
    () => truncationSection(report),
    () => choiceSections(report),
    () => lossSection(report),
    () => refinementSection(report),
    () => [costSection(report), ...(recipe === null ? [] : [recipeSection(recipe)])],
  ];
  const sections = [];
  for (const part of parts) {
    yield;
    sections.push(...part());
  }
  return page({
    title: `Fusion of ${names.length > FEW_CONCEPTS ? `${names.length} concepts` : names.join(', ')}`,
    summary: html`${fusionVerdict(report).map((sentence) => html`${sentence} `)}`,
    sections,
    footer:
      recipe === null
        ? ''
        : `edlora ${recipe.versions.edlora}, onnxruntime ${recipe.versions.onnxruntime}, Node ${recipe.versions.node}`,
  });
}
