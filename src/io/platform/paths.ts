/** How paths are put together and taken apart. Node's; a bundle for the browser takes `paths.browser.ts` in its place. */
export {
  basename,
  dirname,
  extname,
  isAbsolute,
  join,
  parse,
  posix,
  relative,
  resolve,
  sep,
  win32,
} from 'node:path';
