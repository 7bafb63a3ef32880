/** What a page has of a machine. The same names as in `machine.ts`. */
import { hexText } from '../bytes.ts';

/** Browsers tell the memory in GiB, at most 8, or not at all. */
export const availableMemory = (): number =>
  ((globalThis as { navigator?: { deviceMemory?: number } }).navigator?.deviceMemory ?? 4) * 2 ** 30;
export const homeFolder = (): string => '/home';
export const temporaryFolder = (): string => '/tmp';
export const currentFolder = (): string => '/';
export const isSuperuser = (): boolean => false;
export const randomHex = (bytes: number): string => hexText(crypto.getRandomValues(new Uint8Array(bytes)));
export const freshBytes = (length: number): Uint8Array<ArrayBuffer> => new Uint8Array(length);

export const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

/** By a message to oneself: timers of pages wait for 4 ms at least. */
export const nextTurn = (): Promise<void> =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    // Setting it starts the port, where adding a listener would not.
    Object.assign(port1, {
      onmessage: () => {
        port1.close();
        resolve();
      },
    });
    port2.postMessage(null);
  });
