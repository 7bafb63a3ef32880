/**
 * What an original single file says of its noise: keys without a network's weights inside it (`v_pred`, `ztsnr`: ComfyUI's
 * and A1111's signs), ModelSpec's header field, and the `.yaml` of the original code beside it under the same name.
 */
import { z } from 'zod';
import { FormatError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { safeParse } from '../formats/safe-parse.ts';
import { MAX_YAML_LENGTH, parseYaml } from '../formats/strict-yaml.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { exists } from '../io/file-info.ts';
import * as path from '../io/platform/paths.ts';
import { readTextFile } from '../io/read-small-file.ts';
import type { PredictionType, ScheduleKeys } from './model-schedule.ts';

/** One place that says what the UNet predicts. */
interface Sign {
  /** As messages call the place. */
  readonly place: string;
  readonly prediction: PredictionType;
}

/** What people and programs call the three kinds. */
const PREDICTIONS: ReadonlyMap<string, PredictionType> = new Map([
  ['v', 'v_prediction'],
  ['v_prediction', 'v_prediction'],
  ['eps', 'epsilon'],
  ['epsilon', 'epsilon'],
  ['x0', 'sample'],
  ['sample', 'sample'],
]);

const text = z.string().max(200);
const configSchema = z.object({
  model: z.object({
    params: z.object({
      parameterization: text.nullish(),
      linear_start: z.number().nullish(),
      linear_end: z.number().nullish(),
      timesteps: z.number().nullish(),
      beta_schedule: text.nullish(),
      rescale_betas_zero_snr: z.boolean().nullish(),
      denoiser_config: z
        .object({ params: z.object({ scaling_config: z.object({ target: text }).nullish() }).nullish() })
        .nullish(),
    }),
  }),
});

/** ldm's names of the curves, `make_beta_schedule` of ldm/modules/diffusionmodules/util.py. */
const BETA_SCHEDULES: ReadonlyMap<string, string> = new Map([
  ['linear', 'scaled_linear'],
  ['sqrt_linear', 'linear'],
  ['cosine', 'squaredcos_cap_v2'],
]);

/**
 * Keys that a single file's signs give, over those of whatever configuration is used with it.
 * @param tensors names without the `state_dict.` of training checkpoints
 * @param chosen  what the user said that the UNet predicts; signs that contradict each other are then no error
 * @throws {FormatError} for signs that contradict each other, or speak of what is not drawn here
 */
export async function singleFileSchedule(
  { path: file, metadata }: Pick<TensorFile, 'path' | 'metadata'>,
  tensors: Pick<ReadonlyMap<string, unknown>, 'has'>,
  chosen?: PredictionType,
): Promise<ScheduleKeys> {
  const signs: Sign[] = [];
  const add = (place: string, said: string | null | undefined): void => {
    if (said === null || said === undefined || said === '') return;
    const prediction = PREDICTIONS.get(said.toLowerCase().replaceAll('-', '_'));
    if (prediction === undefined) {
      if (chosen !== undefined) return;
      throw new FormatError(
        file,
        `${place}: expected epsilon, v or x0, got "${excerpt(said)}"; say with \`prediction\` what it predicts`,
      );
    }
    signs.push({ place, prediction });
  };
  // Without noise in the last step there is only v to predict.
  for (const key of ['v_pred', 'ztsnr']) if (tensors.has(key)) add(`its key ${key}`, 'v');
  add('modelspec.prediction_type', metadata.get('modelspec.prediction_type'));
  const config = await configBeside(file);
  add(config?.name ?? '', config?.prediction);
  const kinds = new Set(signs.map(({ prediction }) => prediction));
  if (kinds.size > 1 && chosen === undefined) {
    const said = signs.map(({ place, prediction }) => `${prediction} by ${place}`).join(', ');
    throw new FormatError(
      file,
      `expected one kind of prediction, got ${said}; say with \`prediction\` which`,
    );
  }
  const [prediction] = kinds;
  return {
    ...config?.keys,
    ...(tensors.has('ztsnr') ? { rescale_betas_zero_snr: true } : {}),
    ...(prediction === undefined ? {} : { prediction_type: prediction }),
  };
}

interface ConfigBeside {
  readonly name: string;
  readonly prediction: string | null | undefined;
  readonly keys: ScheduleKeys;
}

/** The `.yaml` beside a file; `null` if there is none, or it is of something else. @throws {FormatError} if it is no YAML */
async function configBeside(file: string): Promise<ConfigBeside | null> {
  const stem = file.slice(0, file.length - path.extname(file).length);
  const found = ['.yaml', '.yml'].map((end) => stem + end).find(exists);
  if (found === undefined) return null;
  const { value } = parseYaml(
    await readTextFile(found, 4 * MAX_YAML_LENGTH, 'the configuration of a checkpoint'),
    found,
  );
  if ((value as { model?: { params?: unknown } } | null)?.model?.params === undefined) return null;
  const parsed = safeParse(configSchema, value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new FormatError(found, `${issue.path.join('.')}: ${issue.message}`);
  }
  const { params } = parsed.data.model;
  const keys: Record<string, unknown> = {};
  const put = (key: string, given: unknown): void => {
    if (given !== null && given !== undefined) keys[key] = given;
  };
  put('beta_start', params.linear_start);
  put('beta_end', params.linear_end);
  put('num_train_timesteps', params.timesteps);
  put('rescale_betas_zero_snr', params.rescale_betas_zero_snr);
  if (params.beta_schedule) {
    const curve = BETA_SCHEDULES.get(params.beta_schedule);
    if (curve === undefined) {
      throw new FormatError(
        found,
        `beta_schedule: expected ${[...BETA_SCHEDULES.keys()].join(', ')}, got "${excerpt(params.beta_schedule)}"`,
      );
    }
    put('beta_schedule', curve);
  }
  // generative-models says it by a class: …denoiser_scaling.VScaling, EpsScaling.
  const scaling = params.denoiser_config?.params?.scaling_config?.target;
  const byClass = scaling === undefined ? undefined : /\.?(V|Eps)Scaling[^.]*$/.exec(scaling)?.[1];
  return { name: path.basename(found), prediction: params.parameterization ?? byClass ?? scaling, keys };
}
