/** Reads the OpenAPI document of the node into what the page of the API shows. */

export interface Parameter {
  name: string;
  where: 'path' | 'query';
  required: boolean;
  description: string;
  type: string;
  choices: string[];
}

export interface Operation {
  id: string;
  method: string;
  path: string;
  tag: string;
  title: string;
  description: string;
  parameters: Parameter[];
  /** Media types of the body; none when it takes no body. */
  bodies: string[];
  /** An example of the JSON body. */
  example: string;
  /** Answers with a stream that does not end by itself. */
  stream: boolean;
  answers: { status: string; description: string }[];
}

type Raw = Record<string, unknown>;
const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
/** Nesting of an example; recursive schemas end there. */
const DEPTH_MAX = 6;

const object = (v: unknown): Raw =>
  typeof v === 'object' && v !== null && !Array.isArray(v) ? (v as Raw) : {};
const list = (v: unknown): unknown[] => (Array.isArray(v) ? v : []);
const text = (v: unknown): string => (typeof v === 'string' ? v : '');

export function operations(document: unknown): Operation[] {
  const schemas = object(object(object(document).components).schemas);
  const all: Operation[] = [];
  for (const [path, item] of Object.entries(object(object(document).paths))) {
    for (const method of METHODS) {
      const raw = object(item)[method];
      if (raw === undefined) continue;
      const one = object(raw);
      const body = object(object(one.requestBody).content);
      const answers = object(one.responses);
      all.push({
        id: text(one.operationId) || `${method}${path}`,
        method: method.toUpperCase(),
        path,
        tag: text(list(one.tags)[0]),
        title: text(one.summary),
        description: text(one.description),
        parameters: list(one.parameters).flatMap((p) => parameter(object(p), schemas)),
        bodies: Object.keys(body),
        example: Object.hasOwn(body, 'application/json')
          ? JSON.stringify(example(object(body['application/json']).schema, schemas, 0), null, 2)
          : '',
        stream: Object.values(answers).some((a) =>
          Object.hasOwn(object(object(a).content), 'text/event-stream'),
        ),
        answers: Object.entries(answers).map(([status, a]) => ({
          status,
          description: text(object(a).description),
        })),
      });
    }
  }
  return all;
}

/** The texts of operations by their words in English; one that is not known stays as it is. */
export function translated(all: Operation[], catalogue: Record<string, string>): Operation[] {
  const said = (english: string): string => {
    const key = textKey(english);
    return Object.hasOwn(catalogue, key) ? catalogue[key]! : english;
  };
  return all.map((operation) => ({
    ...operation,
    title: said(operation.title),
    description: said(operation.description),
    parameters: operation.parameters.map((p) => ({ ...p, description: said(p.description) })),
    answers: operation.answers.map((answer) => ({ ...answer, description: said(answer.description) })),
  }));
}

/** What a catalogue has a text under: where its lines break makes no difference. */
export const textKey = (english: string): string => english.replace(/\s+/g, ' ').trim();

function parameter(p: Raw, schemas: Raw): Parameter[] {
  const where = p.in;
  if (where !== 'path' && where !== 'query') return [];
  const schema = resolved(p.schema, schemas);
  const type = list(schema.type).length > 0 ? text(list(schema.type)[0]) : text(schema.type);
  return [
    {
      name: text(p.name),
      where,
      required: p.required === true,
      description: text(p.description),
      type,
      choices: list(schema.enum).map(String),
    },
  ];
}

function resolved(schema: unknown, schemas: Raw): Raw {
  const one = object(schema);
  const name = /^#\/components\/schemas\/(.+)$/.exec(text(one.$ref))?.[1];
  if (name !== undefined) return object(schemas[name]);
  const choices = [...list(one.oneOf), ...list(one.anyOf)].map((choice) => resolved(choice, schemas));
  return choices.find((choice) => choice.type !== 'null') ?? one;
}

/** A value that fits a schema, with the members that are required, or all where none is. */
export function example(schema: unknown, schemas: Raw, depth: number): unknown {
  const one = resolved(schema, schemas);
  if (one.example !== undefined) return one.example;
  if (list(one.enum).length > 0) return list(one.enum)[0];
  const type = list(one.type).find((name) => name !== 'null') ?? one.type;
  if (type === 'object' || one.properties !== undefined) {
    if (depth >= DEPTH_MAX) return {};
    const required = list(one.required);
    const members = Object.entries(object(one.properties)).filter(
      ([name]) => required.length === 0 || required.includes(name),
    );
    return Object.fromEntries(members.map(([name, of]) => [name, example(of, schemas, depth + 1)]));
  }
  if (type === 'array') return depth >= DEPTH_MAX ? [] : [example(one.items, schemas, depth + 1)];
  if (type === 'integer' || type === 'number') return 0;
  if (type === 'boolean') return false;
  if (type === 'string') return '';
  return null;
}

/** The address of a request with its parameters; parameters without a value are left out. */
export function address(operation: Operation, values: Record<string, string>): string {
  const query = new URLSearchParams();
  let path = operation.path;
  for (const p of operation.parameters) {
    const value = values[p.name] ?? '';
    // What is still to be filled in stays in sight; a form does not send it.
    if (p.where === 'path' && value !== '') path = path.replace(`{${p.name}}`, encodeURIComponent(value));
    else if (p.where === 'query' && value !== '') query.set(p.name, value);
  }
  const search = query.toString();
  return search === '' ? path : `${path}?${search}`;
}

/** The request as a command line. */
export function curl(operation: Operation, url: string, type: string, body: string): string {
  const quoted = (value: string) => `'${value.replaceAll("'", `'\\''`)}'`;
  const parts = ['curl'];
  if (operation.stream) parts.push('-N');
  if (operation.method !== 'GET') parts.push('-X', operation.method);
  parts.push('-H', quoted('Authorization: Bearer TOKEN'));
  if (operation.bodies.length > 0 && body !== '')
    parts.push('-H', quoted(`Content-Type: ${type}`), '--data-binary', quoted(body));
  parts.push(quoted(url));
  return parts.join(' ');
}
