/** ED-LoRA files as concepts. */
import { orderedWords } from '../../adapters/schemes/ed-lora.ts';
import { edLoraWord, parseEdLoraKey } from '../../adapters/schemes/ed-lora-names.ts';
import { type RawTensor, renamed } from '../../formats/raw-tensor.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import type { Concept } from '../concept.ts';
import { collectLayers } from './lora-layers.ts';

const params = /^params\./;

/** Whether a tensor name is of this layout. */
export function isEdLoraName(name: string): boolean {
  const flat = name.replace(params, '');
  return edLoraWord(flat) !== null || parseEdLoraKey(flat) !== null;
}

/** @throws {FormatError} as `collectLayers` and `orderedWords` */
export function readEdLora(file: TensorFile): Omit<Concept, 'path' | 'metadata'> {
  const factors: RawTensor[] = [];
  for (const tensor of file.tensors.values()) {
    const name = tensor.name.replace(params, '');
    if (edLoraWord(name) === null) factors.push(renamed(tensor, name));
  }
  const layers = collectLayers(file.path, factors, { parse: parseEdLoraKey, scale: () => 1 });
  return { format: 'ed-lora', tokens: orderedWords(file), layers };
}
