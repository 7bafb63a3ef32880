/** Sessions in the calling thread, which their runs hold: for what takes some milliseconds. */
import { tensorOf } from './device-tensor.ts';
import type { SessionHost } from './session-host.ts';

// Loaded with the first graph: commands that need none start quicker.
const sessions = () => import('./sessions.js');

export const callingThread: SessionHost = {
  load: async (bytes, options) => (await sessions()).load(bytes, options),
  run: async (session, feeds, outputs) => {
    const tensors = Object.entries(feeds).map(([name, fed]) => [name, tensorOf(fed)] as const);
    return (await sessions()).run(session, Object.fromEntries(tensors), outputs);
  },
  free: async (session) => (await sessions()).free(session),
};
