/** Who is at the console. Without users on the node (loopback only) nobody needs to log in. */
import { ApiError, call, problemOf } from './api';
import type { ApiProblem, Session } from './types';

/** From least to most. The node decides; the console only leaves out what would be refused. */
const ROLES = ['viewer', 'operator', 'admin'];

class SessionState {
  status = $state<'unknown' | 'in' | 'login' | 'unreachable'>('unknown');
  who = $state.raw<Session | null>(null);
  problem = $state.raw<ApiProblem | null>(null);

  may(role: 'operator' | 'admin'): boolean {
    return this.who?.users !== true || ROLES.indexOf(this.who.role ?? '') >= ROLES.indexOf(role);
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
