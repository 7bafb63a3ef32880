/**
 * A fusion's recipe and report as they are written: files as seen from the results' folder. What goes into the LoRA and
 * the report, which people share, has names alone for files elsewhere; recipe.json, which later commands work from, says
 * where those are.
 */
import { statSync } from 'node:fs';
import path from 'node:path';
import { placeOfRecord, recordedFiles, recordedPath, relativeRecord } from '../io/recorded-path.ts';
import type { FusionRecipe, RecordedFile } from './recipe.ts';
import type { FusionReport } from './report/report.ts';

interface Unit {
  readonly path: string;
  readonly files: readonly RecordedFile[];
}

const mapped = (recipe: FusionRecipe, map: <T extends Unit>(unit: T) => T): FusionRecipe => ({
  ...recipe,
  base: map(recipe.base),
  concepts: recipe.concepts.map(map),
});

/** With names for files elsewhere, and the size of every file. @param folder absolute, of the results */
export function sharedRecipe(recipe: FusionRecipe, folder: string): FusionRecipe {
  return mapped(recipe, (unit) => {
    const { path: own, files } = recordedFiles(
      { path: unit.path, files: unit.files.map((file) => file.path) },
      folder,
    );
    const sized = unit.files.map((file, i) => ({ ...file, path: files[i]!, ...sizeOf(file.path) }));
    return { ...unit, path: own, files: sized };
  });
}

/** With absolute paths for files elsewhere. @param folder as above */
export function keptRecipe(recipe: FusionRecipe, folder: string): FusionRecipe {
  const place = (file: string): string => relativeRecord(file, folder) ?? file;
  return mapped(recipe, (unit) => ({
    ...unit,
    path: place(unit.path),
    files: unit.files.map((file) => ({ ...file, path: place(file.path) })),
  }));
}

/** A recipe as read from a folder, its paths absolute. @param folder that it was read from */
export function placedRecipe(recipe: FusionRecipe, folder: string): FusionRecipe {
  const place = (recorded: string): string => placeOfRecord(recorded, [path.resolve(folder)]);
  return mapped(recipe, (unit) => ({
    ...unit,
    path: place(unit.path),
    files: unit.files.map((file) => ({ ...file, path: place(file.path) })),
  }));
}

/** A report with files as the shared recipe names them. @param folder as above */
export function sharedReport(report: FusionReport, folder: string): FusionReport {
  return {
    ...report,
    concepts: report.concepts.map((concept) => ({ ...concept, file: recordedPath(concept.file, folder) })),
    statistics: report.statistics.map((origin) => {
      const parts = origin.split('; ').map((part) => {
        const [, place = '', rest = ''] = /^(.*?)( was collected with other options)?$/s.exec(part)!;
        return path.isAbsolute(place) ? recordedPath(place, folder) + rest : part;
      });
      return parts.join('; ');
    }),
  };
}

function sizeOf(file: string): { sizeBytes?: number } {
  const info = statSync(file, { throwIfNoEntry: false });
  return info === undefined ? {} : { sizeBytes: info.size };
}
