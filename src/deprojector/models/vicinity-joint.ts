/**
 * A CLIP layer whose attention is one MLP over the concatenation of the embedding and the last V states:
 *
 *   m = W₂ act(W₁ [e, h_{i−1}, …, h_{i−V}] + b₁) + b₂;  y = h_{i−1} + m;  y + feed-forward(y)
 *
 * W₁ lies in two tensors, so that the embedding's part is computed once a prompt and not at each position.
 */
import { add } from '../../graph/ops/elementwise.ts';
import { concat } from '../../graph/ops/movement.ts';
import { clipActivation, clipFeedForward } from '../../models/clip/transformer.ts';
import { linear } from '../../models/layers.ts';
import { vicinityModel } from './neighbours.ts';

export const vicinityJoint = vicinityModel(
  'one MLP over the embedding and its neighbours',
  (net, shape, e, near) => {
    const { g } = net;
    const { hiddenSize: width } = shape;
    const mixed = net.within('vicinity', () => {
      const ofStates = linear(net, concat(g, near, 2), 'neighbours', { out: width, bias: false });
      const inner = add(g, ofStates, linear(net, e, 'embedding', { out: width }));
      return linear(net, clipActivation(g, inner, shape), 'out', { out: width });
    });
    return net.within('layer', () => clipFeedForward(net, add(g, near[0]!, mixed), shape));
  },
);
