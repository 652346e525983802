/** Who is logged in. A node without users, which listens on this machine only, needs no login. */
import { ApiError, call, problemOf } from './api';
import { t, word } from './i18n.svelte';
import type { ApiProblem, Session } from './types';

/** What a role allows. */
export type Right = 'publish' | 'operate' | 'administer';

/** The least role that has a right. The node decides; the console dims what it would refuse. */
const NEEDS: Record<Right, string> = { publish: 'operator', operate: 'operator', administer: 'admin' };

/** The rights of a role, for a node that does not list them. */
const OF_ROLE: Record<string, string[]> = {
  device: ['publish'],
  operator: ['publish', 'operate'],
  admin: ['publish', 'operate', 'administer'],
};

class SessionState {
  status = $state<'unknown' | 'in' | 'login' | 'unreachable'>('unknown');
  who = $state.raw<Session | null>(null);
  problem = $state.raw<ApiProblem | null>(null);

  may(right: Right): boolean {
    if (this.who?.users !== true) return true;
    const { rights, role } = this.who;
    return (rights ?? OF_ROLE[role ?? ''] ?? []).includes(right);
  }

  /** Why the user may not do what needs this right; null when it is allowed. */
  why(right: Right): string | null {
    if (this.may(right)) return null;
    return t('rights.denied', {
      role: word('role', this.who?.role ?? ''),
      needed: word('role', NEEDS[right]),
    });
  }

  async start(): Promise<void> {
    try {
      this.#enter(await call<Session>('/session'));
    } catch (cause) {
      if (cause instanceof ApiError && cause.status === 401) this.status = 'login';
      else {
        this.problem = problemOf(cause);
        this.status = 'unreachable';
      }
    }
  }

  /** Throws what the node says when it refuses. */
  async login(user: string, password: string): Promise<void> {
    this.#enter(await call<Session>('/session', { method: 'POST', body: { user, password } }));
  }

  async logout(): Promise<void> {
    await call('/session', { method: 'DELETE' });
    this.who = null;
    this.status = 'login';
  }

  expired(): void {
    this.who = null;
    this.status = 'login';
  }

  #enter(who: Session): void {
    this.who = who;
    this.problem = null;
    this.status = who.users && who.user === null ? 'login' : 'in';
  }
}

export const session = new SessionState();
