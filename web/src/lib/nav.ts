import type { Component } from 'svelte';
import type { IconName } from '../ui/icons';
import type { Key } from './i18n.svelte';

interface Page {
  page: string;
  name: Key;
  icon: IconName;
  /** In the bar at the bottom of a phone; the others are behind its last button. */
  quick?: boolean;
}

export const pages: Page[] = [
  { page: '', name: 'nav.overview', icon: 'overview', quick: true },
  { page: 'streams', name: 'nav.streams', icon: 'streams', quick: true },
  { page: 'topics', name: 'nav.topics', icon: 'topic' },
  { page: 'trace', name: 'nav.trace', icon: 'trace' },
  { page: 'flows', name: 'nav.flows', icon: 'flows', quick: true },
  { page: 'processes', name: 'nav.processes', icon: 'processes' },
  { page: 'orchestrations', name: 'nav.orchestrations', icon: 'orchestrations' },
  { page: 'apis', name: 'nav.apis', icon: 'apis' },
  { page: 'plugins', name: 'nav.plugins', icon: 'plugins' },
  { page: 'tables', name: 'nav.tables', icon: 'tables' },
  { page: 'sql', name: 'nav.sql', icon: 'sql', quick: true },
  { page: 'dead-letters', name: 'nav.dead', icon: 'dead' },
  { page: 'connections', name: 'nav.connections', icon: 'connections' },
  { page: 'publish', name: 'nav.publish', icon: 'publish' },
  { page: 'project', name: 'nav.project', icon: 'project' },
  { page: 'users', name: 'nav.users', icon: 'user' },
  { page: 'audit', name: 'nav.audit', icon: 'audit' },
  { page: 'api', name: 'nav.api', icon: 'api' },
];

type Lazy = () => Promise<{ default: Component<{ args: string[] }> }>;

/** What a route shows; `detail` when the path names one resource. Each page is a chunk of its own. */
const views: Record<string, { list: Lazy; detail?: Lazy }> = {
  '': { list: () => import('../pages/Overview.svelte') },
  streams: { list: () => import('../pages/Streams.svelte'), detail: () => import('../pages/Stream.svelte') },
  flows: { list: () => import('../pages/Flows.svelte'), detail: () => import('../pages/Flow.svelte') },
  processes: {
    list: () => import('../pages/Processes.svelte'),
    detail: () => import('../pages/Process.svelte'),
  },
  orchestrations: {
    list: () => import('../pages/Orchestrations.svelte'),
    detail: () => import('../pages/Orchestration.svelte'),
  },
  apis: {
    list: () => import('../pages/Apis.svelte'),
    detail: () => import('../pages/PublishedApi.svelte'),
  },
  trace: { list: () => import('../pages/Trace.svelte'), detail: () => import('../pages/TraceEvent.svelte') },
  plugins: { list: () => import('../pages/Plugins.svelte'), detail: () => import('../pages/Plugin.svelte') },
  tables: { list: () => import('../pages/Tables.svelte'), detail: () => import('../pages/Table.svelte') },
  topics: { list: () => import('../pages/Topics.svelte') },
  sql: { list: () => import('../pages/Sql.svelte') },
  'dead-letters': { list: () => import('../pages/DeadLetters.svelte') },
  connections: {
    list: () => import('../pages/Connections.svelte'),
    detail: () => import('../pages/Connection.svelte'),
  },
  'copy-table': { list: () => import('../pages/CopyTable.svelte') },
  publish: { list: () => import('../pages/Publish.svelte') },
  project: { list: () => import('../pages/Project.svelte') },
  users: { list: () => import('../pages/Users.svelte') },
  audit: { list: () => import('../pages/Audit.svelte') },
  api: { list: () => import('../pages/Api.svelte') },
};

const missing: Lazy = () => import('../pages/Missing.svelte');

export function view(page: string, args: string[]): Lazy {
  const found = Object.hasOwn(views, page) ? views[page] : undefined;
  return (args.length > 0 ? found?.detail : found?.list) ?? missing;
}
