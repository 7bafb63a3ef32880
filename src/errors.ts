/**
 * Error classes of the library. Messages read: where: expected, got; hint.
 * Imports nothing; every layer may throw these, only `cli/` turns them into text and exit codes.
 */

/** Longer messages lose their middle. Files choose the names that messages quote, and may choose megabytes. */
const MAX_MESSAGE_CHARACTERS = 4000;

/** What a shortened message keeps of its end, where "expected, got; hint" stands. */
const END_CHARACTERS = 1500;

/** Base of every error that this library raises on purpose. Its message is at most 4,100 characters long. */
export class EdloraError extends Error {
  override name = 'EdloraError';

  constructor(message?: string, options?: ErrorOptions) {
    super(message === undefined ? message : shortened(message, MAX_MESSAGE_CHARACTERS), options);
  }
}

/** Text of at most about `limit` characters: a longer one keeps its beginning and its end. */
export function shortened(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const tail = Math.min(END_CHARACTERS, limit >> 1);
  // Half of a character beyond 16 bits is dropped with the middle.
  const head = text.slice(0, limit - tail).replace(/[\ud800-\udbff]$/, '');
  const end = text.slice(text.length - tail).replace(/^[\udc00-\udfff]/, '');
  return `${head} … (${text.length - head.length - end.length} characters) … ${end}`;
}

/** A file is missing, unsafe, damaged or not what it claims to be. Exit code 3. */
export class FormatError extends EdloraError {
  override name = 'FormatError';
  /** The file the message speaks of. */
  readonly file: string;
  /** The tensor inside the file, where one is to blame. */
  readonly tensor: string | undefined;

  constructor(file: string, message: string, options: { tensor?: string; cause?: unknown } = {}) {
    super(`${file}: ${message}`, options.cause === undefined ? undefined : { cause: options.cause });
    this.file = file;
    this.tensor = options.tensor;
  }
}

/** A model needs a weight that its checkpoint does not hold. */
export class MissingWeightError extends FormatError {
  override name = 'MissingWeightError';
}

/** Shapes that do not fit: in a graph, in a weight file, between a concept and its base. */
export class ShapeError extends EdloraError {
  override name = 'ShapeError';
}

/** A concept, LoRA or checkpoint that cannot be used with the chosen base, or of another architecture. Exit code 3. */
export class MismatchError extends EdloraError {
  override name = 'MismatchError';
}

/** An operator that the graph layer does not know in this place. */
export class UnsupportedOpError extends EdloraError {
  override name = 'UnsupportedOpError';
}

/** A gradient was asked for through an operator that has none, or of a value that the result does not depend on. */
export class NoGradientError extends EdloraError {
  override name = 'NoGradientError';
}

/** A factorisation or a solve that broke down, or values that are not finite. */
export class NumericalError extends EdloraError {
  override name = 'NumericalError';
  /** The layer concerned, if known. */
  readonly layer: string | undefined;
  /** The offending number, if one. */
  readonly value: number | undefined;

  constructor(message: string, fields: { layer?: string; value?: number; cause?: unknown } = {}) {
    super(
      fields.layer === undefined ? message : `${fields.layer}: ${message}`,
      fields.cause === undefined ? undefined : { cause: fields.cause },
    );
    this.layer = fields.layer;
    this.value = fields.value;
  }
}

/** A job ended early because its signal said so. `kept`: what there is of it, and how to go on. */
export class InterruptedError extends EdloraError {
  override name = 'InterruptedError';
  readonly kept: string;

  constructor(kept: string, options: { cause?: unknown } = {}) {
    super(`interrupted; ${kept}`, options.cause === undefined ? undefined : { cause: options.cause });
    this.kept = kept;
  }
}

/** The caller asked for something impossible: bad option, unknown name, missing argument. Exit code 2. */
export class UsageError extends EdloraError {
  override name = 'UsageError';
}
