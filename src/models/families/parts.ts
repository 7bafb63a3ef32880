/** The networks of an opened base, by component id. */
import { MismatchError, ShapeError } from '../../errors.ts';
import type { UnetConfig } from '../unet/config.ts';
import type { VaeConfig } from '../vae/config.ts';
import { type ComponentId, LayerTable } from './layer-table.ts';
import type { ModelPart, TextPart } from './model-part.ts';
import type { Tokenizers } from './prompt-ids.ts';

/** What a base is put together from. */
export interface Networks {
  /** In the order in which their features stand side by side; at least one. */
  readonly textEncoders: ReadonlyMap<ComponentId, TextPart>;
  readonly unet: ModelPart<UnetConfig>;
  readonly openVae: () => Promise<ModelPart<VaeConfig>>;
}

export class Parts implements Networks {
  readonly textEncoders: ReadonlyMap<ComponentId, TextPart>;
  readonly unet: ModelPart<UnetConfig>;
  readonly openVae: () => Promise<ModelPart<VaeConfig>>;
  /** Everything that can be changed, text encoders first. */
  readonly layers: LayerTable;

  constructor({ textEncoders, unet, openVae }: Networks) {
    this.textEncoders = textEncoders;
    this.unet = unet;
    this.openVae = openVae;
    this.layers = new LayerTable(this.changeable().flatMap(([, { layers }]) => [...layers.values()]));
  }

  /** The networks that can be changed, text encoders first. */
  changeable(): (readonly [ComponentId, ModelPart<unknown>])[] {
    return [...this.textEncoders, ['unet', this.unet]];
  }

  /** @throws {ShapeError} if no network of this base is called so */
  get(id: ComponentId): ModelPart<unknown> {
    const part = id === 'unet' ? this.unet : this.textEncoders.get(id);
    if (part === undefined) {
      const known = this.changeable().map(([component]) => component);
      throw new ShapeError(`${id}: expected a network of this base (${known.join(', ')})`);
    }
    return part;
  }

  /**
   * The text encoder of a base that has one.
   * @throws {MismatchError} if there are several, where words and features are not of one encoder alone
   */
  get textEncoder(): TextPart {
    return this.textEncoders.get(this.textEncoderId)!;
  }

  /** @throws as `textEncoder` */
  get textEncoderId(): ComponentId {
    const [first, ...others] = this.textEncoders.keys();
    if (first === undefined || others.length > 0) {
      throw new MismatchError(`expected a base with one text encoder, got ${this.textEncoders.size}`);
    }
    return first;
  }

  /** What makes the token ids of each text encoder. */
  get tokenizers(): Tokenizers {
    return new Map([...this.textEncoders].map(([id, { tokenizer }]) => [id, tokenizer]));
  }

  /** Longest list of token ids that the text encoders take at once: 77. */
  get maxPositions(): number {
    return Math.min(...[...this.textEncoders.values()].map(({ config }) => config.maxPositions));
  }

  /** The autoencoder, opened when asked for: fusion does without. @throws {FormatError} if it is missing or damaged */
  vae(): Promise<ModelPart<VaeConfig>> {
    return this.openVae();
  }

  /** The same base with other networks in place of these. */
  with(changed: Partial<Networks>): Parts {
    const { textEncoders, unet, openVae } = this;
    return new Parts({ textEncoders, unet, openVae, ...changed });
  }
}
