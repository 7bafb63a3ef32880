/**
 * The operators of our graphs and their parameters. Separate tables, total over `OpType`, answer one
 * question each: what shape (`ops/`), what value (`interpret/`), what gradient (`vjp/`); a runtime has one of its own.
 *
 * The set is what runtimes are fast at rather than the smallest one: attention is one operator, and so is a product with
 * a transposed weight.
 */
export type NoAttributes = Record<never, never>;

export interface OpAttributes {
  // elementwise, with NumPy broadcasting for two inputs
  Add: NoAttributes;
  Sub: NoAttributes;
  Mul: NoAttributes;
  Div: NoAttributes;
  Sqrt: NoAttributes;
  Exp: NoAttributes;
  Sin: NoAttributes;
  Cos: NoAttributes;
  Sigmoid: NoAttributes;
  Erf: NoAttributes;
  /** 1 where a = b, else 0; always bool. */
  Equal: NoAttributes;
  /** The same numbers, through which no gradient flows. */
  StopGradient: NoAttributes;
  /** x · sigmoid(alpha · x); alpha 1 is SiLU, 1.702 is CLIP's activation. */
  QuickGelu: { readonly alpha: number };
  /** x · Φ(x), exact (erf). */
  Gelu: NoAttributes;
  /** From any dtype; bool becomes 0 or 1. */
  Cast: { readonly to: 'float32' | 'float64' | 'float16' };

  /** alpha · op(A) · op(B) over the last two axes; leading axes broadcast. transB takes a checkpoint's [out, in] weight as it is. */
  FusedMatMul: { readonly transA: boolean; readonly transB: boolean; readonly alpha: number };

  /** x [B, C, H, W], weight [O, C, kh, kw], optional bias [O]. pads: top, left, bottom, right. */
  Conv: {
    readonly strides: readonly [number, number];
    readonly pads: readonly [number, number, number, number];
    /** Cells between neighbouring taps of the kernel; 1 is dense. */
    readonly dilations: readonly [number, number];
  };
  /**
   * The transpose of Conv as a linear map: x [B, O, h, w], weight [O, C, kh, kw] as Conv has it, to
   * [B, C, height, width]. Strides and pads are those of the convolution it transposes.
   */
  ConvTranspose: {
    readonly strides: readonly [number, number];
    readonly pads: readonly [number, number, number, number];
    readonly height: number;
    readonly width: number;
  };
  /** Nearest-neighbour enlargement of [B, C, H, W] to height × width. */
  Resize: { readonly height: number; readonly width: number };

  /** x, weight [n], bias [n] over the last axis. Outputs: y, mean, inverse standard deviation. */
  LayerNormalization: { readonly epsilon: number };
  /** x [B, C, …], weight [C], bias [C]. */
  GroupNormalization: { readonly groups: number; readonly epsilon: number };
  Softmax: { readonly axis: number };
  /**
   * q [B, N, heads·d], k [B, M, heads·d], v [B, M, heads·e], optional bias added to the scores,
   * broadcastable to [B, heads, N, M]. Returns [B, N, heads·e]; scores are scaled by 1/√d.
   */
  MultiHeadAttention: { readonly numHeads: number };

  Reshape: { readonly shape: readonly number[] };
  Transpose: { readonly perm: readonly number[] };
  Concat: { readonly axis: number };
  Split: { readonly axis: number; readonly sizes: readonly number[] };
  /** Elements [start, end) along one axis. */
  Slice: { readonly axis: number; readonly start: number; readonly end: number };
  /** Rows of `data` along `axis` picked by an integer tensor. */
  Gather: { readonly axis: number };
  /** The transpose of Gather along axis 0: rows [...I, ...rest] are added into `size` rows of zeros at indices [...I]. */
  ScatterRows: { readonly size: number };
  /** Broadcasts to `shape`. */
  Expand: { readonly shape: readonly number[] };

  ReduceSum: { readonly axes: readonly number[]; readonly keepDims: boolean };
  ReduceMean: { readonly axes: readonly number[]; readonly keepDims: boolean };
  ReduceMax: { readonly axes: readonly number[]; readonly keepDims: boolean };
}

export type OpType = keyof OpAttributes;
