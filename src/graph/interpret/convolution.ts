import { dense, type Evaluators } from './evaluator.ts';

/** Convolution as its defining sum, and nearest-neighbour enlargement. */
export const evaluateConvolution: Evaluators<'Conv' | 'ConvTranspose' | 'Resize'> = {
  Conv: ([x, weight, bias], { attributes: { strides, pads, dilations }, outputs }) => {
    const out = dense(outputs[0]!.shape);
    const [batch, channels, height, width] = x!.shape as [number, number, number, number];
    const [, outChannels, outHeight, outWidth] = out.shape as [number, number, number, number];
    const [kernelHeight, kernelWidth] = weight!.shape.slice(2) as [number, number];
    let flat = 0;
    for (let b = 0; b < batch; b++) {
      for (let o = 0; o < outChannels; o++) {
        for (let i = 0; i < outHeight; i++) {
          for (let j = 0; j < outWidth; j++) {
            let sum = bias?.data[o] ?? 0;
            for (let c = 0; c < channels; c++) {
              for (let ki = 0; ki < kernelHeight; ki++) {
                const row = i * strides[0] - pads[0] + ki * dilations[0];
                if (row < 0 || row >= height) continue;
                for (let kj = 0; kj < kernelWidth; kj++) {
                  const col = j * strides[1] - pads[1] + kj * dilations[1];
                  if (col < 0 || col >= width) continue;
                  sum +=
                    x!.data[((b * channels + c) * height + row) * width + col]! *
                    weight!.data[((o * channels + c) * kernelHeight + ki) * kernelWidth + kj]!;
                }
              }
            }
            out.data[flat++] = sum;
          }
        }
      }
    }
    return [out];
  },
  ConvTranspose: ([x, weight], { attributes: { strides, pads, height, width }, outputs }) => {
    const out = dense(outputs[0]!.shape);
    const [batch, channels, rows, cols] = x!.shape as [number, number, number, number];
    const [, outChannels, kernelHeight, kernelWidth] = weight!.shape as [number, number, number, number];
    let flat = 0;
    for (let plane = 0; plane < batch * channels; plane++) {
      const [b, o] = [Math.floor(plane / channels), plane % channels];
      for (let i = 0; i < rows; i++) {
        for (let j = 0; j < cols; j++, flat++) {
          for (let c = 0; c < outChannels; c++) {
            for (let ki = 0; ki < kernelHeight; ki++) {
              const row = i * strides[0] - pads[0] + ki;
              if (row < 0 || row >= height) continue;
              for (let kj = 0; kj < kernelWidth; kj++) {
                const col = j * strides[1] - pads[1] + kj;
                if (col < 0 || col >= width) continue;
                out.data[((b * outChannels + c) * height + row) * width + col]! +=
                  x!.data[flat]! *
                  weight!.data[((o * outChannels + c) * kernelHeight + ki) * kernelWidth + kj]!;
              }
            }
          }
        }
      }
    }
    return [out];
  },
  Resize: ([x], { attributes: { height, width }, outputs }) => {
    const out = dense(outputs[0]!.shape);
    const [batch, channels, fromHeight, fromWidth] = x!.shape as [number, number, number, number];
    let flat = 0;
    for (let plane = 0; plane < batch * channels; plane++) {
      for (let i = 0; i < height; i++) {
        const row = plane * fromHeight + Math.floor((i * fromHeight) / height);
        for (let j = 0; j < width; j++) {
          out.data[flat++] = x!.data[row * fromWidth + Math.floor((j * fromWidth) / width)]!;
        }
      }
    }
    return [out];
  },
};
