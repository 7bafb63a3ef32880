/** The folder of an evaluation: pictures as they are drawn, at the end report.json and report.html. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type { Picture } from '../formats/picture.ts';
import { encodePng } from '../formats/png.ts';
import { onDisk } from '../io/on-disk.ts';
import { makeFolder, writeFileAtomically } from '../io/replace-file.ts';
import { checkFileTarget, checkResultsFolder } from '../io/targets.ts';
import type { EvaluationReport } from './evaluation-report.ts';

export class ReportFolder {
  /** Absolute path. */
  readonly path: string;
  readonly #groups = new Map<string, { folder: string; count: number }>();

  readonly #inputs: readonly string[];

  /**
   * @param options.inputs files and folders that are read, and never replaced
   * @throws {UsageError} if the folder holds anything and `force` is not set
   */
  constructor(
    folder: string,
    { force = false, inputs = [] }: { force?: boolean; inputs?: readonly string[] } = {},
  ) {
    this.path = path.resolve(folder);
    this.#inputs = inputs;
    checkResultsFolder(folder, force);
  }

  /**
   * Save a picture under its group, numbered.
   * @param group e.g. the model's name; any text
   * @param texts PNG texts by keyword
   * @returns its path relative to the folder, with forward slashes
   */
  async savePicture(
    group: string,
    picture: Picture,
    texts: Readonly<Record<string, string>> = {},
  ): Promise<string> {
    if (this.#groups.size === 0) await this.#removeOldReport();
    const place = this.#groups.get(group) ?? { folder: this.#freshFolder(group), count: 0 };
    this.#groups.set(group, place);
    const file = `${place.folder}/${String(place.count++).padStart(3, '0')}.png`;
    await this.write(file, await encodePng(picture, texts));
    return file;
  }

  /** Write the report. @returns the two files, absolute */
  async finish(report: EvaluationReport): Promise<{ json: string; html: string }> {
    // The charting library costs half a second: not at the start of every command.
    const { evaluationPage } = await import('./report-page.ts');
    const html = await evaluationPage(report, this.path);
    return {
      json: await this.write('report.json', `${JSON.stringify(report, null, 2)}\n`),
      html: await this.write('report.html', html),
    };
  }

  /** Write one file. @param file relative to the folder. @returns its absolute path @throws {UsageError} if it is an input */
  async write(file: string, content: string | Uint8Array): Promise<string> {
    const full = path.join(this.path, file);
    checkFileTarget(full, { inputs: this.#inputs, force: true });
    await makeFolder(path.dirname(full));
    await writeFileAtomically(full, [content]);
    return full;
  }

  /** Scores of an earlier run must not stand over pictures of this one, whenever it ends. */
  async #removeOldReport(): Promise<void> {
    for (const name of ['report.json', 'report.html']) {
      const file = path.join(this.path, name);
      if (!existsSync(file)) continue;
      checkFileTarget(file, { inputs: this.#inputs, force: true });
      await onDisk(file, () => rm(file));
    }
  }

  /** A name that every file system takes, and that no other group has. */
  #freshFolder(group: string): string {
    const plain = group.replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[.-]+|[.-]+$/g, '') || 'pictures';
    const taken = new Set([...this.#groups.values()].map(({ folder }) => folder));
    let name = `pictures/${plain}`;
    for (let i = 2; taken.has(name); i++) name = `pictures/${plain}-${i}`;
    return name;
  }
}
