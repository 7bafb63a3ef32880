export { LARGEST_WEIGHT, largestShapeOf, type WeightShape } from '../families/largest-shapes.ts';
