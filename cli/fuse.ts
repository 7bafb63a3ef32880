#!/usr/bin/env node
/** The program `fuse`: short for `edlora fuse`. */
import { start } from './process.ts';

await start('fuse');
