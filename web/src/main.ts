import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { whenUnauthorised } from './lib/api';
import { i18n } from './lib/i18n.svelte';
import { router } from './lib/router.svelte';
import { session } from './lib/session.svelte';
import { theme } from './lib/theme.svelte';
import { times } from './lib/times.svelte';

// The node answers any path with this page; what stands in the path is meant as a page of the console.
if (location.pathname !== '/') history.replaceState(null, '', `/#${location.pathname}${location.search}`);

theme.start();
times.start();
router.start();
whenUnauthorised(() => session.expired());

// The texts come first: nothing is ever shown in keys.
void i18n.start().then(() => mount(App, { target: document.getElementById('app')! }));
void session.start();
