/**
 * Pictures that are drawn side by side, call by call, by networks of which one is loaded at a time. A call waits until its network is
 * there; another one is loaded when nobody is going to ask for this one before. So what each picture asks for in turn is
 * loaded once for all of them.
 */
export class Turns {
  #members = 0;
  #busy = false;
  /** Of the network that is loaded. */
  #kind: string | null = null;
  readonly #waiting: {
    readonly kind: string;
    readonly start: () => void;
    readonly end: (error: unknown) => void;
  }[] = [];
  #failure: { readonly error: unknown } | null = null;

  /** A picture's whole work. All of those that take turns begin before any of them awaits anything. */
  async member<T>(work: () => Promise<T>): Promise<T> {
    this.#members++;
    try {
      return await work();
    } catch (error) {
      // What is left of the others is of no use.
      this.#failure ??= { error };
      throw error;
    } finally {
      this.#members--;
      this.#next();
    }
  }

  /** One call. @param kind says which network it needs */
  take<T>(kind: string, call: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const start = (): void => {
        const done = (): void => {
          this.#busy = false;
          this.#next();
        };
        call().then(resolve, reject).then(done);
      };
      this.#waiting.push({ kind, start, end: reject });
      this.#next();
    });
  }

  #next(): void {
    if (this.#failure !== null) {
      for (const { end } of this.#waiting.splice(0)) end(this.#failure.error);
      return;
    }
    if (this.#busy || this.#waiting.length === 0) return;
    const same = this.#waiting.findIndex(({ kind }) => kind === this.#kind);
    // Who is not waiting may still ask for what is loaded.
    if (same < 0 && this.#waiting.length < this.#members) return;
    const [turn] = this.#waiting.splice(Math.max(0, same), 1);
    this.#busy = true;
    this.#kind = turn!.kind;
    turn!.start();
  }
}
