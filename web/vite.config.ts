import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

// In development the API is a node's: name it with BUSBAR_URL.
// The Host header stays the page's own: the node refuses what comes from another origin.
const node = { target: process.env.BUSBAR_URL ?? 'http://127.0.0.1:8080', changeOrigin: false };

export default defineConfig({
  plugins: [svelte()],
  // Svelte Flow ships Svelte components: its library holds rune state, so all of it is bundled by us.
  build: {
    target: 'es2022',
    outDir: 'dist',
    // The console is served by the binary under a Content-Security-Policy of 'self': nothing inline.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    reportCompressedSize: true,
  },
  server: { proxy: { '/api': node, '/healthz': node, '/readyz': node, '/metrics': node } },
  test: { include: ['tests/unit/**/*.test.ts'], environment: 'node' },
});
