#!/usr/bin/env node
/** The program `edlora`. */
import { start } from './process.ts';

await start('edlora');
