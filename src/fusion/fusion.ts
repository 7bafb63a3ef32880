/** What a fusion is once it is solved; `output.ts` writes it. */
import type { BoundVocabulary } from '../concepts/prompt.ts';
import type { InputFiles } from '../formats/input-files.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ComponentId, LayerId } from '../models/families/layer-table.ts';
import type { FusionConcept } from './fusion-concept.ts';
import type { FusionOptions } from './options.ts';
import type { FusionReport } from './report/report.ts';
import type { Stage } from './stage.ts';

/** One merged layer. */
export interface FusedLayer {
  readonly stage: Stage;
  readonly component: ComponentId;
  readonly layerName: string;
  /** W* − W₀, exactly, of rank ≤ Σ r_i. */
  readonly delta: LowRank;
}

export interface Fusion {
  readonly base: Checkpoint;
  readonly concepts: readonly FusionConcept[];
  readonly options: FusionOptions;
  /** Captions that were preserved, the empty prompt among them; empty if preservation was off. */
  readonly captions: readonly string[];
  readonly vocabulary: BoundVocabulary;
  /** Keyed by `${component}:${layerName}`, in the base's own layer order. */
  readonly layers: ReadonlyMap<LayerId, FusedLayer>;
  readonly report: FusionReport;
  /** The files it was made of, as they were when they were opened. */
  readonly inputs: InputFiles;
}
