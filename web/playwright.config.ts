import { defineConfig } from '@playwright/test';

// BASE_URL names a running node. Tests marked @mock need a node in a state that a healthy one is not in (users,
// a stuck flow, lost connections): they run against the mock in any case; all of them do without BASE_URL.
// CHROMIUM names another browser than Debian's.
const node = process.env.BASE_URL;
const port = Number((process.env.MOCK_PORT ??= String(20_000 + (process.pid % 20_000))));
const mock = (env: Record<string, string>, at: number) => ({
  command: 'node tests/mock/main.mjs',
  env: { ...env, PORT: String(at) },
  url: `http://127.0.0.1:${at}/`,
  reuseExistingServer: false,
});

export default defineConfig({
  testDir: 'tests/e2e',
  outputDir: 'tests/results',
  timeout: 45_000,
  expect: { timeout: 12_000 },
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
  projects: [
    ...(node ? [{ name: 'node', grepInvert: /@mock/, use: { baseURL: node } }] : []),
    { name: 'mock', grep: node ? /@mock/ : undefined, use: { baseURL: `http://127.0.0.1:${port}` } },
  ],
  webServer: [mock({}, port), mock({ USERS: '1' }, port + 1)],
});
