/** The configuration of PEFT adapters, which alone knows lora_alpha. */
import { existsSync } from 'node:fs';
import { FormatError } from '../../errors.ts';
import { readJsonFileSync } from '../../formats/json-file.ts';

export const adapterConfigName = 'adapter_config.json';

/**
 * The configuration that lies beside an adapter's weights.
 * @throws {FormatError} if it is missing, no ordinary file, too large, or not an object in JSON
 */
export function readAdapterConfig(weights: string, file: string): Record<string, unknown> {
  if (!existsSync(file)) {
    throw new FormatError(
      weights,
      `a PEFT adapter, but there is no ${adapterConfigName} beside it, which holds lora_alpha; keep the two together`,
    );
  }
  const config = readJsonFileSync(file);
  if (typeof config !== 'object' || config === null || Array.isArray(config)) {
    throw new FormatError(file, 'expected a JSON object');
  }
  return config as Record<string, unknown>;
}
