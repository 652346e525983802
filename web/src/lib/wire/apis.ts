/** Published APIs. */
import type { ApiCall, ApiSummary } from '../types';
import { isObject, list, num, objects, opt, problemIn, str, strings } from './raw';

export const API_COUNTS = ['answered', 'late', 'refused', 'failed'] as const;

const apiCall = (v: unknown): ApiCall | null =>
  isObject(v) ? { time: str(v.time), status: num(v.status), error: problemIn(v.error) ?? null } : null;

export const readApis = (v: unknown): ApiSummary[] =>
  list(v, 'apis').map((one) => ({
    name: str(one.name),
    path: str(one.path),
    description: opt(one.description),
    work: str(one.work),
    orchestration: opt(one.orchestration),
    topic: opt(one.topic),
    reply: opt(one.reply),
    service: opt(one.service),
    wsdl: typeof one.service === 'string' ? `${one.service}?wsdl` : null,
    methods: strings(one.methods),
    role: str(one.role),
    parameters: objects(one.parameters).map((p) => ({
      name: str(p.name),
      type: str(p.type),
      required: p.required === true,
    })),
    within: one.within_s === undefined ? null : num(one.within_s),
    inFlight: num(one.in_flight),
    inFlightMax: num(one.in_flight_max),
    counts: {
      answered: num(one.answered_total),
      late: num(one.late_total),
      refused: num(one.refused_total),
      failed: num(one.failed_total),
    },
    last: apiCall(one.last_call),
    failure: apiCall(one.last_failure),
  }));
