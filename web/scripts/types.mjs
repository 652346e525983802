/**
 * Writes the types of the API (src/lib/api.gen.ts) from its description (docs/reference/openapi.json).
 * Run by `npm run types`; a unit test fails when the file is not up to date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const SOURCE = fileURLToPath(new URL('../../docs/reference/openapi.json', import.meta.url));
const TARGET = fileURLToPath(new URL('../src/lib/api.gen.ts', import.meta.url));

const HEAD =
  '/**\n * Types of the REST API. Made by `npm run types` from docs/reference/openapi.json; do not edit.\n */\n';

/** The text of the file for a document. */
export function generate(document) {
  const schemas = Object.entries(document.components?.schemas ?? {});
  schemas.sort(([a], [b]) => (a < b ? -1 : 1));
  return HEAD + schemas.map(([name, schema]) => declaration(name, schema)).join('');
}

function declaration(name, schema) {
  const doc = comment(schema.description, '');
  if (schema.properties && !schema.allOf && !schema.oneOf)
    return `\n${doc}export interface ${name} ${members(schema, '')}\n`;
  return `\n${doc}export type ${name} = ${type(schema, '')};\n`;
}

function members(schema, indent) {
  const deeper = `${indent}  `;
  const required = new Set(schema.required ?? []);
  const lines = Object.entries(schema.properties ?? {}).map(([name, of]) => {
    const key = /^[A-Za-z_]\w*$/.test(name) ? name : JSON.stringify(name);
    const optional = required.has(name) ? '' : '?';
    return `${comment(of.description, deeper)}${deeper}${key}${optional}: ${type(of, deeper)};\n`;
  });
  return lines.length === 0 ? 'Record<string, never>' : `{\n${lines.join('')}${indent}}`;
}

function type(schema, indent) {
  if (typeof schema !== 'object' || schema === null) return 'unknown';
  if (schema.$ref) return schema.$ref.split('/').at(-1);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(' | ');
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.oneOf ?? schema.anyOf)
    return union((schema.oneOf ?? schema.anyOf).map((one) => type(one, indent)));
  if (schema.allOf) return schema.allOf.map((one) => type(one, indent)).join(' & ');
  const types = [schema.type ?? []].flat();
  if (types.length === 0) return schema.properties ? members(schema, indent) : 'unknown';
  return union(types.map((one) => single(one, schema, indent)));
}

function single(name, schema, indent) {
  switch (name) {
    case 'array': {
      const item = type(schema.items, indent);
      return /[ |&]/.test(item) ? `(${item})[]` : `${item}[]`;
    }
    case 'object': {
      if (schema.properties) return members(schema, indent);
      const values = schema.additionalProperties;
      return `Record<string, ${typeof values === 'object' ? type(values, indent) : 'unknown'}>`;
    }
    case 'integer':
    case 'number':
      return 'number';
    case 'string':
    case 'boolean':
    case 'null':
      return name;
    default:
      return 'unknown';
  }
}

function union(types) {
  const all = [...new Set(types)];
  // `null` stands last, as people write it.
  return [...all.filter((one) => one !== 'null'), ...all.filter((one) => one === 'null')].join(' | ');
}

function comment(text, indent) {
  if (!text) return '';
  const lines = text.replaceAll('*/', '*\u200b/').split('\n');
  if (lines.length === 1) return `${indent}/** ${lines[0]} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`.trimEnd()).join('\n')}\n${indent} */\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  writeFileSync(TARGET, generate(JSON.parse(readFileSync(SOURCE, 'utf8'))));
