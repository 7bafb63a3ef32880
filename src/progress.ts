/** How far a call is that takes long. Every such call takes an `onProgress` that is told one of these, or more. */

export interface Progress {
  /** What is done of `total`, in units of the call: layers, steps, pictures, bytes. */
  readonly done: number;
  readonly total: number;
  /** Part of the work that is done, 0–1, where units are known to cost differently. */
  readonly share?: number;
}

export interface SubjectProgress extends Progress {
  /** What is worked on: a layer, a file, a tool. */
  readonly subject: string;
}
