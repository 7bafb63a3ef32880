/** All commands, in the order in which help lists them. */
import type { Command } from '../command.ts';
import { bakeCommand } from './bake.ts';
import { convertCommand } from './convert.ts';
import { evalCommand } from './eval.ts';
import { extractCommand } from './extract.ts';
import { fuseCommand } from './fuse.ts';
import { inspectCommand } from './inspect.ts';
import { lintCommand } from './lint.ts';
import { mergeCommand } from './merge.ts';
import { resizeCommand } from './resize.ts';
import { sampleCommand } from './sample.ts';
import { trainCommand } from './train.ts';
import { verifyCommand } from './verify.ts';

export const COMMANDS: readonly Command[] = [
  fuseCommand,
  trainCommand,
  sampleCommand,
  evalCommand,
  inspectCommand,
  mergeCommand,
  convertCommand,
  resizeCommand,
  extractCommand,
  bakeCommand,
  lintCommand,
  verifyCommand,
];
