/** Small files of kinds that people own, see fixtures/cases/README.md. */
import { fileURLToPath } from 'node:url';

export function casePath(...parts: string[]): string {
  return fileURLToPath(new URL(`../../fixtures/cases/${parts.join('/')}`, import.meta.url));
}
