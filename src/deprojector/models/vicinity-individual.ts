/**
 * A CLIP layer whose attention is a linear map of its own for the embedding and for each of the last V states, and a second
 * one over the concatenation of what they give:
 *
 *   m = W [A₀ e + a₀, A₁ h_{i−1} + a₁, …, A_V h_{i−V} + a_V] + b;  y = h_{i−1} + m;  y + feed-forward(y)
 */
import { add } from '../../graph/ops/elementwise.ts';
import { concat, expand } from '../../graph/ops/movement.ts';
import { clipFeedForward } from '../../models/clip/transformer.ts';
import { linear } from '../../models/layers.ts';
import { vicinityModel } from './neighbours.ts';

export const vicinityIndividual = vicinityModel(
  'a map for each neighbour, and one over all',
  (net, shape, e, near) => {
    const { g } = net;
    const { hiddenSize: width } = shape;
    const mixed = net.within('vicinity', () => {
      const ofEmbedding = expand(g, linear(net, e, 'embedding', { out: width }), near[0]!.shape);
      const ofStates = near.map((state, k) => linear(net, state, `neighbours.${k}`, { out: width }));
      return linear(net, concat(g, [ofEmbedding, ...ofStates], 2), 'out', { out: width });
    });
    return net.within('layer', () => clipFeedForward(net, add(g, near[0]!, mixed), shape));
  },
);
