import { describe, expect, it } from 'vitest';
import { zeroDelta } from '../../src/linalg/low-rank.ts';
import type { LayerId } from '../../src/models/families/layer-table.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import type { SceneConcept } from '../../src/sampling/model-source.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { combinationNotes, placeConcepts } from '../../src/sampling/scene-concepts.ts';
import type { Scene } from '../../src/sampling/scene-schema.ts';

const whole = { unetStrength: 1, textEncoderStrength: 1 };
const concept = (path: string, words: string[], own: SceneConcept['own'] = whole): SceneConcept => ({
  path,
  words,
  phrase: null,
  deltas: new Map(),
  own,
});
const CAT = concept('cat.pth', ['<cat1>', '<cat2>'], { unetStrength: 0.8, textEncoderStrength: 0.4 });
const DOG = concept('dog.pth', ['<dog>']);
const STYLE = concept('style.safetensors', []);
const CALLED = concept('called.safetensors', [], null);

const LEFT = '0,0,0.5,1';
const RIGHT = '0.5,0,1,1';
const place = (scene: Scene, concepts: SceneConcept[]) => {
  const named = { concepts: ['cat.pth', 'dog.pth'], loras: ['style.safetensors'], ...scene };
  return placeConcepts(
    normalScene(named, (file) => file),
    concepts,
  );
};

describe('a concept of a scene', () => {
  it('acts in the regions whose prompts have one of its words, with its own strengths', () => {
    const regions = [`a <CAT2> @ ${LEFT}`, `a <dog> and a <cat1> @ ${RIGHT}`];
    const { context, regions: placed, notes } = place({ prompt: 'grass', regions }, [CAT, DOG, STYLE]);
    const style = { concept: 2, ...whole };
    expect(context).toEqual([style]);
    expect(placed[0]).toEqual([{ concept: 0, unetStrength: 0.8, textEncoderStrength: 0.4 }, style]);
    expect(placed[1]!.map((use) => use.concept)).toEqual([0, 1, 2]);
    expect(notes).toEqual([]);
  });

  it('acts everywhere where the context has its words, where there are no regions, or where everything does', () => {
    const regions = [`a <dog> @ ${LEFT}`];
    const inContext = place({ prompt: 'a <cat1>', regions }, [CAT, DOG]);
    expect(inContext.context.map((use) => use.concept)).toEqual([0]);
    expect(inContext.regions[0]!.map((use) => use.concept)).toEqual([0, 1]);
    const mixed = place({ prompt: '', styleMix: { 3: 'a <cat1>' }, regions }, [CAT, DOG]);
    expect(mixed.context.map((use) => use.concept)).toEqual([0]);
    expect(place({ prompt: '' }, [CAT, DOG]).context).toHaveLength(2);
    const everywhere = place({ prompt: '', regions, conceptsEverywhere: true }, [CAT, DOG]);
    expect(everywhere.context).toHaveLength(2);
    expect(everywhere.regions[0]).toHaveLength(2);
  });

  it('is called by tags: in a region for that region, in the prompt for everywhere, with the tag’s strength', () => {
    const regions = [`a bird <lora:called.safetensors:0.5> @ ${LEFT}`, `a fish <lora:style:0.2> @ ${RIGHT}`];
    const scene = { prompt: 'grass <lora:cat:0.1:0.3>', regions };
    const { context, regions: placed } = place(scene, [CAT, STYLE, CALLED]);
    const cat = { concept: 0, unetStrength: 0.3, textEncoderStrength: 0.1 };
    expect(context).toEqual([cat, { concept: 1, ...whole }]);
    expect(placed[0]).toEqual([
      cat,
      { concept: 1, ...whole },
      { concept: 2, unetStrength: 0.5, textEncoderStrength: 0.5 },
    ]);
    expect(placed[1]).toEqual([cat, { concept: 1, unetStrength: 0.2, textEncoderStrength: 0.2 }]);
  });

  it('that nobody names acts nowhere, and says so; so does a region that names none', () => {
    const regions = [`a <dog> @ ${LEFT}`, `a bird @ ${RIGHT}`, `a <mouse> @ ${RIGHT}`];
    const third = concept('mouse.pth', ['<mouse>']);
    const { context, regions: placed, notes } = place({ prompt: '', regions }, [CAT, DOG, third]);
    expect(context).toEqual([]);
    expect(placed.map((uses) => uses.map((use) => use.concept))).toEqual([[1], [], [2]]);
    expect(notes).toEqual([
      'cat.pth: acts nowhere, since no prompt has <cat1> or <cat2>',
      'region 2: names no concept; only what acts everywhere draws it',
    ]);
  });

  it('with layers of the timestep says that these act in no region', () => {
    const deltas: ModelDeltas = new Map([['unet:time_embedding.linear_1', zeroDelta(2, 2)]]);
    const regions = [`a <dog> @ ${LEFT}`];
    const { notes } = place({ prompt: '', regions }, [{ ...DOG, deltas }]);
    expect(notes).toEqual([
      "dog.pth: what it changes in the timestep's embedding (1 of its layers) is of no place, and left out",
    ]);
    expect(place({ prompt: 'a <dog>', regions }, [{ ...DOG, deltas }]).notes).toEqual([]);
  });
});

describe('tags of a scene', () => {
  it('are written out, and what is written out is the same scene', () => {
    const scene = normalScene(
      {
        loras: ['sub/a.safetensors'],
        prompt: 'x <lora:a:0.5>',
        regions: [{ prompt: 'y <lora:b:2>', box: [0, 0, 1, 1], loras: [{ path: 'c', strength: 0.1 }] }],
      },
      (file) => `/here/${file.replace('/here/', '')}`,
    );
    expect(scene.prompt).toBe('x');
    expect(scene.promptLoras).toEqual([
      { path: '/here/sub/a.safetensors', unetStrength: 0.5, textEncoderStrength: 0.5 },
    ]);
    expect(scene.regions[0]).toMatchObject({
      prompt: 'y',
      loras: [{ path: '/here/c' }, { path: '/here/b' }],
    });
    expect(normalScene(scene as Scene, (file) => file)).toEqual(scene);
  });
});

describe('a combination', () => {
  const id: LayerId = 'unet:time_embedding.linear_1';
  const timed = { ...CAT, deltas: new Map([[id, zeroDelta(2, 2)]]) as ModelDeltas };
  it('names who has nobody to take turns with, and what cannot take turns', () => {
    const both = [{ concept: 0 }, { concept: 1 }];
    expect(combinationNotes({ combine: 'sum', concepts: [] }, [])).toEqual([]);
    expect(combinationNotes({ combine: 'switch', concepts: both }, [CAT, DOG])).toEqual([]);
    expect(combinationNotes({ combine: 'switch', concepts: [] }, [])[0]).toContain('no file acts');
    expect(combinationNotes({ combine: 'composite', concepts: [{ concept: 1 }] }, [CAT, DOG])[0]).toContain(
      'one file acts',
    );
    expect(combinationNotes({ combine: 'composite', concepts: both }, [timed, DOG])).toEqual([
      "cat.pth: what it changes in the timestep's embedding (1 of its layers) cannot take turns, and is left out",
    ]);
  });
});
