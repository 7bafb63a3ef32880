export { foreignArchitecture } from '../families/recognise.ts';
