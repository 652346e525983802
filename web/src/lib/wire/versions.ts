/** Versions of the project, and what differs between two. */
import type { ApiProblem, Change, Diagnostic, Version } from '../types';
import { diagnostic, isObject, list, num, object, objects, opt, problemIn, type Raw, str } from './raw';

function version(v: Raw): Version {
  return {
    version: num(v.version),
    time: str(v.time),
    by: opt(v.by),
    note: opt(v.note),
    changes: changes(v.changes),
  };
}

/** Newest first, whatever order they came in. */
const newest = (all: Version[]): Version[] => all.sort((a, b) => b.version - a.version);

export const readVersions = (v: unknown): Version[] => newest(list(v, 'versions').map(version));
export const readHistory = (v: unknown): Version[] => newest(list(v, 'versions').map(version));

/** Why flows of a deployment did not start, by flow: their versions before go on. */
export const readFailed = (answer: unknown): Map<string, ApiProblem> => {
  const failed = Object.entries(object(object(object(answer).applied).failed));
  const problems = failed.map(([flow, v]) => [flow, problemIn(v)] as const);
  return new Map(problems.filter((entry): entry is [string, ApiProblem] => Boolean(entry[1])));
};

/** Whether a flow that did not start for this would if it were computed again from the beginning. */
export const helpsReplay = (problem: ApiProblem): boolean =>
  problem.code === 'flow.state-holds' || problem.code === 'flow.state-changed';

export interface FlowDiff {
  before: string;
  after: string;
}

export function readDiff(v: unknown): FlowDiff {
  return { before: str(object(v).before), after: str(object(v).after) };
}

export interface ProjectFiles {
  files: Record<string, string>;
  refused: { time: string; diagnostics: Diagnostic[] } | null;
  /** About the version that runs: flow tests that fail, say. */
  warnings: Diagnostic[];
  /** Files in which what runs differs from the project's folder. */
  differs: Change[];
}

export function readProject(answer: unknown): ProjectFiles {
  const v = object(answer);
  const texts = Object.entries(object(v.files));
  return {
    files: Object.fromEntries(texts.filter((e): e is [string, string] => typeof e[1] === 'string')),
    refused: isObject(v.refused)
      ? { time: str(v.refused.time), diagnostics: objects(v.refused.diagnostics).map(diagnostic) }
      : null,
    warnings: objects(v.warnings).map(diagnostic),
    differs: changes(v.differs),
  };
}

function changes(v: unknown): Change[] {
  return objects(v).map((c) => ({
    path: str(c.path),
    kind: str(c.kind) as Change['kind'],
    meaning: typeof c.meaning === 'boolean' ? c.meaning : undefined,
  }));
}
