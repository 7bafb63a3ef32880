/** What stands in place of a scene's prompts: means of embeddings, and files of states. Opened with the scene, made when it is drawn. */
import { deprojectParts } from '../deprojector/apply.ts';
import { checkEncoder, type Deprojector } from '../deprojector/deprojector.ts';
import type { EmbeddedPart } from '../deprojector/embed.ts';
import { textEncoderHash } from '../deprojector/encoder-hash.ts';
import { openDeprojector, openStates } from '../deprojector/file.ts';
import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { clipBeside, openClipModel } from '../models/clip/clip-model.ts';
import type { ExecutionRequest } from '../runtime/execution-context.ts';
import { checkStates, type GivenStates, type StatesInPlace } from './given-states.ts';
import type { SceneModel } from './model-source.ts';
import type { SampleRequest } from './request.ts';
import type { NormalScene } from './scene.ts';

/** States of a scene, of which some are still to be made. */
export interface SceneStates {
  /** The request with all states in their places. @throws as `deprojectParts` */
  fill(request: SampleRequest, execution: ExecutionRequest): Promise<SampleRequest>;
}

/** One prompt, and what stands in its place. */
interface Place {
  /** In messages: `prompt`, `region 2: negative`. */
  readonly where: string;
  /** Of the regions; -1 is the context. */
  readonly region: number;
  readonly field: keyof StatesInPlace;
  readonly prompt: string;
  readonly embed: readonly EmbeddedPart[] | undefined;
  readonly states: string | undefined;
}

/**
 * Open and check everything; `null` where prompts are all there is.
 * @throws {UsageError} for a prompt beside what stands in its place, means without a deprojector, concept words in embedded texts
 * @throws {MismatchError} for files of another text encoder than the base's; {FormatError} for damaged ones
 */
export async function openSceneStates(scene: NormalScene, model: SceneModel): Promise<SceneStates | null> {
  const places = placesOf(scene).filter(({ embed, states }) => embed !== undefined || states !== undefined);
  if (places.length === 0) {
    if (scene.deprojector === undefined) return null;
    throw new UsageError('deprojector: expected something to embed; give it with `embed`');
  }
  for (const place of places) checkPlace(place, model);
  if ((scene.clipSkip ?? 0) > 0) {
    throw new UsageError('clipSkip: states in place of a prompt are those of all layers; leave it out');
  }
  const { base } = model;
  const { textEncoder } = base.parts;
  const hash = await textEncoderHash(textEncoder);
  const given = new Map<Place, GivenStates>();
  for (const place of places) {
    if (place.states === undefined) continue;
    const { states, textEncoder: own } = await openStates(place.states);
    checkEncoder(place.states, own, hash);
    checkStates(place.states, states, base.parts.maxPositions, textEncoder.config.hiddenSize);
    given.set(place, states);
  }
  const embedded = places.filter(({ embed }) => embed !== undefined);
  let deprojector: Deprojector | undefined;
  if (embedded.length > 0) {
    if (scene.deprojector === undefined) {
      throw new UsageError('embed: expected a deprojector; name its file with `deprojector`');
    }
    deprojector = await openDeprojector(scene.deprojector);
    checkEncoder(scene.deprojector, deprojector.textEncoder, hash);
  }
  const clip = () => openClipModel(scene.clip ?? clipBeside(base.path));
  return {
    fill: async (request, execution) => {
      const all = new Map(given);
      if (deprojector !== undefined) {
        const lists = embedded.map(({ embed }) => embed!);
        const made = await deprojectParts(lists, { ...execution, base, deprojector, clip });
        embedded.forEach((place, i) => {
          all.set(place, made[i]!);
        });
      }
      const of = (region: number): StatesInPlace =>
        Object.fromEntries(
          [...all].flatMap(([place, states]) => (place.region === region ? [[place.field, states]] : [])),
        );
      return {
        ...request,
        ...of(-1),
        regions: (request.regions ?? []).map((region, i) => ({ ...region, ...of(i) })),
      };
    },
  };
}

function placesOf(scene: NormalScene): Place[] {
  return [scene, ...scene.regions].flatMap((own, i): Place[] => {
    const where = i === 0 ? '' : `region ${i}: `;
    const { prompt = '', negative = '', embed, negativeEmbed, states, negativeStates } = own;
    return [
      { where: `${where}prompt`, region: i - 1, field: 'promptStates', prompt, embed, states },
      {
        where: `${where}negative`,
        region: i - 1,
        field: 'negativeStates',
        prompt: negative,
        embed: negativeEmbed,
        states: negativeStates,
      },
    ];
  });
}

function checkPlace({ where, prompt, embed, states }: Place, { vocabulary }: SceneModel): void {
  const given = [prompt !== '', embed !== undefined, states !== undefined].filter(Boolean).length;
  if (given > 1)
    throw new UsageError(`${where}: expected one of a text, \`embed\` and \`states\`, got ${given}`);
  if (embed?.length === 0) throw new UsageError(`${where}: embed: expected a text or a picture, got none`);
  for (const part of embed ?? []) {
    if (!('text' in part)) continue;
    const word = vocabulary.tokens.find((token) =>
      part.text.toLowerCase().includes(token.word.toLowerCase()),
    );
    if (word === undefined) continue;
    throw new UsageError(
      `${where}: embed "${excerpt(part.text)}": ${excerpt(word.word)} is a concept's word, which has no embedding in CLIP's space; ` +
        'let it stand in a prompt of its own, of a region or of the picture',
    );
  }
}
