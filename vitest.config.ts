import { defineConfig } from 'vitest/config';

/** They replace modules, change the process or measure its memory: each has one of its own. All others share those that there are. */
const APART = [
  'test/cli/no-mmap.test.ts',
  'test/formats/cost.test.ts',
  'test/fusion/statistics/statistics-cache.test.ts',
  'test/goldens/hostile.test.ts',
  'test/library.test.ts',
  'test/linalg/leading-eigen.test.ts',
  'test/runtime/half-weights.test.ts',
  'test/sampling/adding-a-sampler.test.ts',
];

export default defineConfig({
  test: {
    globalSetup: ['test/support/cache-folder.ts'],
    setupFiles: ['test/support/close.ts'],
    testTimeout: 60_000,
    // By default one core is left idle.
    maxWorkers: '100%',
    projects: [
      {
        extends: true,
        test: { name: 'together', include: ['test/**/*.test.ts'], exclude: APART, isolate: false },
      },
      { extends: true, test: { name: 'apart', include: APART } },
    ],
  },
});
