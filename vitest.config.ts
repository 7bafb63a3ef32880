import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/cache-folder.ts'],
    setupFiles: ['test/support/close.ts'],
    testTimeout: 60_000,
  },
});
