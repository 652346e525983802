import { defineConfig } from '@playwright/test';

// The tests run against a real node that they start themselves (tests/e2e/node.ts). CHROMIUM names another
// browser than Debian's.
export default defineConfig({
  testDir: 'tests/e2e',
  outputDir: 'tests/results',
  // How long a machine may take that is ten times slower than ours, and compiles beside the tests.
  timeout: 300_000,
  expect: { timeout: 60_000 },
  fullyParallel: false,
  workers: 1,
  reporter: [['list']],
  use: {
    viewport: { width: 1360, height: 860 },
    locale: 'en-GB',
    timezoneId: 'Asia/Shanghai',
    colorScheme: 'light',
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      args: [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    },
  },
});
