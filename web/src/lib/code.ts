/** What the files of plug-ins are written in, by their names. */
export type CodeKind = 'javascript' | 'python' | 'java' | 'yaml' | 'perl' | 'scala' | 'erlang' | 'text';

const KINDS: Record<string, CodeKind> = {
  js: 'javascript',
  mjs: 'javascript',
  json: 'javascript',
  py: 'python',
  java: 'java',
  yaml: 'yaml',
  yml: 'yaml',
  pl: 'perl',
  pm: 'perl',
  scala: 'scala',
  sc: 'scala',
  erl: 'erlang',
  hrl: 'erlang',
};

export function kindOf(path: string): CodeKind {
  const end = path.slice(path.lastIndexOf('.') + 1).toLowerCase();
  return Object.hasOwn(KINDS, end) ? KINDS[end]! : 'text';
}

/** How the API begins the text of a file that is none. */
const BINARY = 'data:application/octet-stream;base64,';

/** Bytes of a file that is no text; null for text, which may be edited. */
export function binaryBytes(text: string): number | null {
  if (!text.startsWith(BINARY)) return null;
  const encoded = text.slice(BINARY.length).trim();
  const padding = encoded.endsWith('==') ? 2 : encoded.endsWith('=') ? 1 : 0;
  return Math.max(0, (encoded.length / 4) * 3 - padding);
}

/** By name, with what describes the plug-in behind its program. */
export function ordered(files: Record<string, string>): string[] {
  const first = (path: string): number => (path === 'plugin.yaml' ? 1 : 0);
  return Object.keys(files).sort((a, b) => first(a) - first(b) || a.localeCompare(b));
}
