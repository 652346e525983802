/**
 * Hash routing: `#/streams/host?partition=1`. The node serves one page and no rewrite rule is needed,
 * so the console works behind any proxy path that serves its files.
 */
export interface Route {
  /** First part of the path, '' for the overview. */
  page: string;
  /** The rest of the path, decoded. */
  args: string[];
  query: URLSearchParams;
}

export function parse(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2);
  const [page = '', ...args] = path.split('/').map(safeDecode);
  return { page, args: args.filter((a) => a !== ''), query: new URLSearchParams(query) };
}

/** The `href` of a page: every part is escaped, so names with slashes are safe. */
export function href(
  page: string,
  args: string[] = [],
  query: Record<string, string | undefined> = {},
): string {
  const path = [page, ...args].map(encodeURIComponent).join('/');
  const search = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v !== undefined && v !== '') search.set(k, v);
  const text = search.toString();
  return `#/${path}${text ? `?${text}` : ''}`;
}

function safeDecode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

class Router {
  route = $state.raw<Route>({ page: '', args: [], query: new URLSearchParams() });

  start(): void {
    // The node answers a path that it does not know with this page and a mark.
    const lost = document.querySelector('meta[name="busbar-missing"]') !== null;
    const read = () =>
      (this.route =
        lost && location.hash === '' ? { ...parse(''), page: location.pathname } : parse(location.hash));
    addEventListener('hashchange', read);
    read();
  }

  go(to: string): void {
    location.hash = to.replace(/^#/, '');
  }
}

export const router = new Router();
