/**
 * Whether adapters are of one family, so that the same name means the same layer in all of them. Families whose layers are not
 * listed are told apart by their signs where they have any; then names and sizes must agree.
 */
import type { Adapter, Architecture } from '../adapters/adapter.ts';
import { layerExtent } from '../adapters/layer-limits.ts';
import { MismatchError, UsageError } from '../errors.ts';
import { familyNamed, layoutOf, UNLISTED_FAMILY } from '../models/families/families.ts';
import { readsPrompt } from '../models/families/family.ts';

/**
 * The common architecture.
 * @throws {UsageError} without inputs; {MismatchError} if families are mixed
 */
export function commonArchitecture(adapters: readonly Adapter[]): Architecture {
  const first = adapters[0];
  if (first === undefined) throw new UsageError('merge: expected at least one adapter, got none');
  // An input whose names prove its family speaks for those whose names do not.
  const told = adapters.find(({ architecture }) => architecture !== UNLISTED_FAMILY.name) ?? first;
  for (const other of adapters) {
    if (
      isListed(other) || isListed(told) ? other.architecture !== told.architecture : !mayAgree(told, other)
    ) {
      throw differentFamilies(first === other ? told : first, other);
    }
  }
  for (const other of adapters.slice(1)) {
    const reason = isListed(first) ? null : disagreement(first, other);
    if (reason !== null) {
      throw new MismatchError(
        `${other.path}: expected an adapter for the same model as ${first.path}, ${reason}; they cannot be merged`,
      );
    }
  }
  return told.architecture;
}

const isListed = ({ architecture }: Adapter): boolean => layoutOf(architecture) !== null;

const mayAgree = (a: Adapter, b: Adapter): boolean =>
  [a.architecture, b.architecture].includes(UNLISTED_FAMILY.name) || a.architecture === b.architecture;

function differentFamilies(first: Adapter, other: Adapter): MismatchError {
  const [wanted, got] = [first, other].map(({ architecture }) => familyNamed(architecture).title);
  return new MismatchError(
    `${other.path}: expected an adapter for ${wanted} as ${first.path}, got one for ${got}; they cannot be merged`,
  );
}

/** Why two adapters are for different models by names and sizes; `null` if they may be for one. */
function disagreement(first: Adapter, other: Adapter): string | null {
  const [sizes, others] = [sizesOf(first), sizesOf(other)];
  const shared = [...sizes.keys()].filter((name) => others.has(name));
  if (shared.length === 0) {
    const proven = first.architecture === other.architecture && first.architecture !== UNLISTED_FAMILY.name;
    const inDiffusers = [sizes, others].map((own) =>
      [...own.keys()].some((name) => diffusersBlock.test(name)),
    );
    // The one may change double blocks, the other single ones; but diffusers has other layers for the same weights.
    return proven && inDiffusers[0] === inDiffusers[1]
      ? null
      : `got no layer of the same name (${nameIn(sizes)} and ${nameIn(others)}, for example)`;
  }
  const fits = shared.some((name) => [...sizes.get(name)!].some((size) => others.get(name)!.has(size)));
  if (fits) return null;
  const [name] = shared;
  return `got other sizes (${name}: ${[...sizes.get(name!)!][0]} and ${[...others.get(name!)!][0]})`;
}

const diffusersBlock = /(^|_)transformer_blocks_#/;

const nameIn = (sizes: ReadonlyMap<string, unknown>): string => [...sizes.keys()][0] ?? 'none';

/** Sizes of the changes by kind of layer: its name with the numbers left open. Text encoders are many families'. */
function sizesOf({ layers }: Adapter): Map<string, Set<string>> {
  const sizes = new Map<string, Set<string>>();
  const all = [...layers.values()];
  const model = all.filter(({ component }) => !readsPrompt(component));
  for (const layer of model.length > 0 ? model : all) {
    const { shape } = layerExtent(layer);
    if (shape === null) continue;
    const name = layer.layerName.replace(/(?<![^_])\d+(?![^_])/g, '#');
    sizes.set(name, (sizes.get(name) ?? new Set()).add(`[${shape.join(', ')}]`));
  }
  return sizes;
}
