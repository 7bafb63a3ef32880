/**
 * What is a base model: a family says how its files are recognised, which networks it has, what reads the prompt, and what
 * adapters of it are called. Whoever works with a base asks its family, and never which one it is.
 */
import type { ClipTextConfig } from '../clip/config.ts';
import type { ReadNames } from '../keys/read-names.ts';
import type { ScheduleKeys } from '../model-schedule.ts';
import type { WeightSource } from '../network.ts';
import type { UnetConfig } from '../unet/config.ts';
import type { VaeConfig } from '../vae/config.ts';
import type { MakeTokenEncoder } from './conditioning.ts';
import type { ComponentId, Layer } from './layer-table.ts';

/** How files of a family are told from those of others, by names and widths alone. */
export interface FamilySigns {
  /** Names of tensors that only this family has; families are asked in the order of `families.ts`. */
  readonly names: readonly RegExp[];
  /** What headers call a model of this family: `ss_base_model_version`, `modelspec.architecture` and their like. */
  readonly titles?: RegExp;
  /** `_class_name` in model_index.json. */
  readonly pipelines?: RegExp;
  /** Numbers per word that keys and values of the cross-attentions read. */
  readonly contextWidth?: number;
  /** Numbers of a word's embedding. */
  readonly wordWidth?: number;
  /** Whether a base's transformers begin with a linear layer: it tells where neither names nor widths do. */
  readonly linearProjections?: boolean;
  /** Whether names prove the family only beside the width. */
  readonly needsBoth?: boolean;
}

/**
 * Networks that an adapter can change. Of families whose layers are not listed here, all that is known is which names are
 * of the model itself (`network`) and which of what reads the prompt (`encoder`).
 */
export type AdapterComponent = 'unet' | 'text_encoder' | 'text_encoder_2' | 'network' | 'encoder';

/** Whether a network reads the prompt. */
export function readsPrompt(component: AdapterComponent): boolean {
  return component !== 'unet' && component !== 'network';
}

/** What a file has of a layer whose family's layers are not listed here. */
export interface OwnSpelling {
  /** The layer as the file calls it, prefixes included. */
  readonly name: string;
  /** What the file puts behind the name, by part (schemes/suffixes.ts): `up`, `down`, `alpha`, … */
  readonly suffixes: ReadonlyMap<string, string>;
}

/** A layer that an adapter changes. */
export interface AdapterModule {
  readonly component: AdapterComponent;
  /**
   * Dotted diffusers path without `.weight`; text encoder paths start with `text_model.`. Of layers that are not listed
   * here: the path with `_` for dots, which all spellings share.
   */
  readonly layerName: string;
  /** Of layers that are not listed here alone. */
  readonly own?: OwnSpelling | undefined;
}

/** What adapters need to know of a family: its published configuration, and what files call its layers. */
export interface AdapterLayout {
  readonly unet: UnetConfig;
  /** By component, in the order in which files list them. */
  readonly textEncoders: Readonly<Partial<Record<AdapterComponent, ClipTextConfig>>>;
  /** What kohya's names of each network begin with. */
  readonly kohyaPrefixes: Readonly<Partial<Record<AdapterComponent, string>>>;
  /** How kohya's files number the UNet's blocks: as diffusers, or as the original (LDM, SGM). */
  readonly kohyaNumbering: 'diffusers' | 'ldm';
  /** Whether bases of another depth than the published one are about, so that names count that it lacks. */
  readonly anyDepth: boolean;
  /** Which schemes hold layers of this family, of those that do not hold every family's. */
  readonly conceptFiles: readonly ('ed-lora' | 'cloneofsimo')[];
  /** What the published model's tensors hold in an original single file, by network. */
  readonly singleFile: Readonly<Partial<Record<AdapterComponent, ReadNames>>>;
  /** `ss_base_model_version` of sd-scripts. */
  readonly kohyaVersion: string;
  /** ModelSpec's words for a LoRA of this family. */
  readonly modelspec: Readonly<Record<'modelspec.architecture' | 'modelspec.implementation', string>>;
}

/** A network of a base: where its files lie, what is in them, and what of it can be changed. */
export interface ComponentLayout<C> {
  readonly id: ComponentId;
  /** Names that its weight file may have in diffusers' layout, without the end. */
  readonly stems: readonly string[];
  /** Reads `config.json`. */
  readonly parse: (file: string) => Promise<C>;
  /** The published configuration, for single files without one. */
  readonly published: C;
  /** Today's name of a parameter in diffusers' layout. */
  readonly canonical: (paramName: string) => string;
  /** What its tensors' names begin with in an original single file: one that has none such lacks this network. */
  readonly singleFilePrefix: string;
  /** What those tensors hold, for a name without the `state_dict.` of training checkpoints. */
  readonly singleFile: (config: C) => ReadNames;
  /** All parameters that it has: a file with others, or without some, is of another network. Left out: not looked at. */
  readonly parameters?: (config: C) => ReadonlySet<string>;
  /** @throws {FormatError} naming the field of the configuration that the weights contradict */
  readonly checkFits: (configFile: string, config: C, weights: WeightSource) => void;
  /** Its rows of the layer table. */
  readonly layers: (config: C) => readonly Layer[];
}

/** What drawing, training and fusing need to know of a family. */
export interface BaseLayout {
  readonly unet: ComponentLayout<UnetConfig>;
  /** In the order in which their features stand side by side. */
  readonly textEncoders: readonly TextEncoderLayout[];
  readonly vae: ComponentLayout<VaeConfig>;
  /** The published scheduler_config.json, for single files without one. */
  readonly scheduler: ScheduleKeys;
  /** Short name of the sampler that draws where nobody asks for another. */
  readonly sampler: string;
  /** The one encoder of prompts. */
  readonly tokenEncoder: MakeTokenEncoder;
  /** What of every text encoder that reads, for who takes its gradient. */
  readonly textReading: TextReading;
  /** Whether no prompt at all is features of zeros rather than the empty text's, where model_index.json does not say it. */
  readonly zerosForNoPrompt: boolean;
  /** A tensor that every single-file checkpoint of this family has. */
  readonly singleFileSign: string;
}

/** Which state of a text encoder the UNet reads. */
export interface TextReading {
  /** Layers that are left out at the end. */
  readonly clipSkip: number;
  /** Whether it goes through the final norm. */
  readonly finalNorm: boolean;
  /** Whether text encoders with a projection give a vector for the whole prompt too. */
  readonly pooled: boolean;
}

export interface TextEncoderLayout extends ComponentLayout<ClipTextConfig> {
  /** Folder of its tokenizer. */
  readonly tokenizer: string;
  /** Word that fills up its prompts, where it goes by another text encoder's tokenizer. Default: that one's. */
  readonly padding?: string;
}

export interface Family {
  readonly name: string;
  /** As messages call it: `Stable Diffusion 1.x`. */
  readonly title: string;
  /** `SD 1.x` */
  readonly shortTitle: string;
  readonly signs: FamilySigns;
  /** Names of the blocks that strengths are given for, by how many numbers there are; empty where nobody named any. */
  readonly blockNames: ReadonlyMap<number, readonly string[]>;
  /** Block of a layer by the file's own name of it; `null` where the original's numbering tells it. */
  readonly blockOf: ((module: AdapterModule) => string | null) | null;
  /** `null`: its layers are not listed here; its adapters are worked with by the names that files have for them. */
  readonly adapters: AdapterLayout | null;
  /** `null`: its models are recognised and refused. */
  readonly base: BaseLayout | null;
}

/** A family whose adapters are read and written. */
export interface AdapterFamily extends Family {
  readonly adapters: AdapterLayout;
}

/** A family whose models draw, learn and are fused. */
export interface BaseFamily extends AdapterFamily {
  readonly base: BaseLayout;
}
