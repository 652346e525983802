/** Who may do what, and who did what. */
import type { AuditEntry, Rules, Token, User } from '../types';
import { list, object, opt, str, strings } from './raw';

function rules(v: unknown): Rules {
  const from = object(v);
  const list = (name: string) => (Array.isArray(from[name]) ? strings(from[name]) : undefined);
  return { publish: list('publish'), subscribe: list('subscribe'), read: list('read') };
}

export const readUsers = (v: unknown): User[] =>
  list(v, 'users').map((u) => ({
    name: str(u.name),
    role: str(u.role),
    rules: rules(u.rules),
    created: str(u.created),
  }));

export const readTokens = (v: unknown): Token[] =>
  list(v, 'tokens').map((one) => ({
    id: str(one.id),
    name: str(one.name),
    user: str(one.user),
    role: str(one.role),
    rules: rules(one.rules),
    created: str(one.created),
    expires: opt(one.expires),
  }));

export function readAudit(v: unknown): { entries: AuditEntry[]; next: string | null } {
  const entries = list(v, 'entries').map((one) => ({
    id: str(one.id),
    time: str(one.time),
    user: str(one.user),
    via: str(one.via),
    origin: str(one.origin),
    peer: opt(one.peer),
    action: str(one.action),
    target: str(one.target),
    message: str(one.message),
    message_zh: opt(one.message_zh) ?? undefined,
  }));
  return { entries, next: opt(object(v).next) };
}
