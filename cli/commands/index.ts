/** All commands, in the order in which help lists them. */
import type { Command } from '../command.ts';
import { evalCommand } from './eval.ts';
import { fuseCommand } from './fuse.ts';
import { inspectCommand } from './inspect.ts';
import { sampleCommand } from './sample.ts';

export const COMMANDS: readonly Command[] = [fuseCommand, sampleCommand, evalCommand, inspectCommand];
