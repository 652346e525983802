/** Calls to the node. Every failure is an `ApiError` that carries what a person needs to go on. */
import { i18n, t } from './i18n.svelte';
import { parse, stringify } from './json';
import type { ApiProblem, Diagnostic } from './types';

const BASE = '/api/v1';
/** A call that has not been answered by then is given up and said so. */
export const CALL_MS_MAX = 30_000;

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly problem: ApiProblem,
  ) {
    super(problem.message);
  }

  /** The sentence in the language on screen. */
  get text(): string {
    return said(this.problem);
  }
}

/** The sentence of a problem in the language on screen. */
export function said(problem: { message: string; message_zh?: string }): string {
  return i18n.language === 'zh' && problem.message_zh ? problem.message_zh : problem.message;
}

type Listener = () => void;
let onUnauthorised: Listener = () => {};
/** Called when the node says that a login is needed. */
export function whenUnauthorised(listener: Listener): void {
  onUnauthorised = listener;
}

export interface CallOptions {
  method?: 'GET' | 'POST' | 'PUT' | 'DELETE';
  query?: Record<string, string | number | undefined>;
  body?: unknown;
  /** A body that is JSON already and is sent as it is, digit by digit. */
  json?: string;
  signal?: AbortSignal;
}

export function url(path: string, query: CallOptions['query'] = {}): string {
  const search = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v !== undefined && v !== '') search.set(k, String(v));
  const text = search.toString();
  return `${BASE}${path}${text ? `?${text}` : ''}`;
}

export async function call<T>(path: string, options: CallOptions = {}): Promise<T> {
  const limit = AbortSignal.timeout(CALL_MS_MAX);
  const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
  const sent = options.json ?? (options.body === undefined ? undefined : stringify(options.body));
  let response: Response;
  try {
    response = await fetch(url(path, options.query), {
      method: options.method ?? 'GET',
      headers: sent === undefined ? {} : { 'content-type': 'application/json' },
      body: sent,
      credentials: 'same-origin',
      signal,
    });
  } catch (cause) {
    if (options.signal?.aborted) throw cause;
    throw local(0, limit.aborted ? 'console.timeout' : 'console.unreachable');
  }
  if (response.status === 204) return undefined as T;
  const text = await response.text();
  let body: unknown;
  try {
    body = text === '' ? undefined : parse(text);
  } catch {
    throw local(response.status, 'console.not_json', { status: String(response.status) });
  }
  if (response.ok) return body as T;
  const problem = located(body as Refused | undefined);
  // A refused login is told where it was tried; any other 401 leads to the login page.
  if (response.status === 401 && path !== '/session') onUnauthorised();
  throw problem?.message
    ? new ApiError(response.status, problem)
    : local(response.status, 'console.not_json', { status: String(response.status) });
}

interface Refused {
  error?: ApiProblem;
  /** Events of a publish of which none was stored. */
  rejected?: (Omit<ApiProblem, 'class'> & { retry?: boolean })[];
  /** What a checker found, with places in the text that was sent. */
  diagnostics?: Found[];
}

interface Found extends Diagnostic {
  start?: number;
  end?: number;
  suggestion?: string | null;
  span?: { start: number; end: number };
}

/** The error of a refusal, with the place of its first diagnostic when it has one. */
function located(body: Refused | undefined): ApiProblem | undefined {
  const rejected = body?.rejected?.[0];
  if (rejected) return { ...rejected, class: rejected.retry ? 'transient' : 'permanent' };
  const problem = body?.error;
  const found = body?.diagnostics?.[0];
  if (!problem || !found) return problem;
  const span = found.span ?? { start: found.start ?? 0, end: found.end ?? 0 };
  return {
    ...problem,
    span: problem.span ?? span,
    suggestion: problem.suggestion ?? found.suggestion,
    diagnostics: body.diagnostics,
  };
}

/** Why an address that should be a stream is none; null when it is one, or when nobody answers. */
export async function refusal(address: string): Promise<ApiProblem | null> {
  const abort = new AbortController();
  try {
    const response = await fetch(address, { credentials: 'same-origin', signal: abort.signal });
    if (response.ok) return null;
    if (response.status === 401) onUnauthorised();
    const body = (await response.json()) as { error?: ApiProblem };
    return body.error ?? null;
  } catch {
    return null;
  } finally {
    abort.abort();
  }
}

/** Problems the console itself finds: said by our own catalogue, in the language on screen. */
function local(
  status: number,
  code: 'console.timeout' | 'console.unreachable' | 'console.not_json',
  args: Record<string, string> = {},
): ApiError {
  return new ApiError(status, { class: 'transient', code, message: t(code, args), args });
}

/** Any thrown thing as a problem that can be shown. */
export function problemOf(cause: unknown): ApiProblem {
  if (cause instanceof ApiError) return cause.problem;
  return {
    class: 'permanent',
    code: 'console.fault',
    message: cause instanceof Error ? cause.message : String(cause),
  };
}

export const part = encodeURIComponent;
