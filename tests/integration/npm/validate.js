// Holds documents, messages and answers against edge/asyncapi.yaml and edge/openapi.yaml: node validate.js ASYNCAPI OPENAPI.
// From standard input {messages: [{channel, action, value}], answers: [{method, path, status, headers, body}], topics: [..]};
// to standard output
//   asyncapi, openapi  what is wrong with the documents
//   known              the ids of the messages of each channel and action; knownAnswers: of all answers
//   messages, answers  for each of the input, the id of what it matches, and what is wrong with it (null: nothing)
// `topics` are names of no meaning of their own, as which a producer has published something.
'use strict';
const fs = require('fs');
const { parse } = require('yaml');
const Ajv = require('ajv');
const Ajv2020 = require('ajv/dist/2020');
const addFormats = require('ajv-formats');
const asyncapiSchema = require('@asyncapi/specs').schemas['3.0.0'];

const [asyncapiFile, openapiFile] = process.argv.slice(2);
const asyncapi = parse(fs.readFileSync(asyncapiFile, 'utf8'));
const openapi = parse(fs.readFileSync(openapiFile, 'utf8'));
// An unknown keyword in a schema is an error (a typing mistake would allow everything); `required` beside `if` is no mistake.
const options = { strict: true, strictTypes: false, strictRequired: false };
const ownWords = [...new Set([...Object.keys(asyncapi), ...Object.keys(openapi)])];  // Of the documents around the schemas.
const draft7 = addFormats(new Ajv(options)).addVocabulary(ownWords).addSchema(asyncapi, 'asyncapi.yaml');
const draft2020 = addFormats(new Ajv2020(options)).addVocabulary(ownWords).addSchema(asyncapi, 'asyncapi.yaml')
  .addSchema(openapi, 'openapi.yaml');

const text = (errors) => errors.map((e) => `${e.instancePath || '(all)'} ${e.message} ${JSON.stringify(e.params)}`);
const escaped = (name) => name.replace(/~/g, '~0').replace(/\//g, '~1');

function resolve(root, value) {
  while (value && value.$ref) {
    value = value.$ref.slice(2).split('/').reduce(
      (at, part) => at && at[part.replace(/~1/g, '/').replace(/~0/g, '~')], root);
  }
  return value;
}

function check(ajv, ref, value) {
  const validate = ajv.getSchema(ref);
  if (!validate) {
    return [`${ref} does not exist`];
  }
  return validate(value) ? [] : text(validate.errors);
}

// --- WebSocket ---------------------------------------------------------------------------------------------------------

const problems = { asyncapi: [], openapi: [] };
const known = {};   // channel -> action -> [{id, name, ref}]
const OTHERS = ['any other state topic', 'any other event topic'];

for (const operation of Object.values(asyncapi.operations)) {
  const channel = operation.channel.$ref.replace('#/channels/', '');
  const list = ((known[channel] ||= {})[operation.action] ||= []);
  for (const reference of operation.messages) {
    const message = resolve(asyncapi, reference);
    if (!message || !message.payload) {
      problems.asyncapi.push(`${reference.$ref} does not lead to a message`);
    } else {
      const id = reference.$ref.split('/').pop();
      list.push({ id, name: message.name, ref: 'asyncapi.yaml' + message.payload.$ref });
    }
  }
}

function checkMessage({ channel, action, value }, topics) {
  const list = known[channel][action];
  const type = value && value.type;
  let candidates = list.filter((message) => message.name === type);
  if (candidates.length === 0 && topics.includes(type)) {
    candidates = list.filter((message) => OTHERS.includes(message.name));
  }
  if (candidates.length === 0) {
    return { id: null, problem: [`no message of the type ${JSON.stringify(type)} is documented`] };
  }
  const [{ id, problem }] = candidates.map(({ id, ref }) => ({ id, problem: check(draft7, ref, value) }))
    .sort((a, b) => a.problem.length - b.problem.length);
  return { id, problem: problem.length ? problem : null };
}

// --- HTTP --------------------------------------------------------------------------------------------------------------

function pathOf(asked) {
  const path = asked === '/index.html' ? '/' : asked.length > 1 ? asked.replace(/\/$/, '') : asked;
  return Object.keys(openapi.paths).find((template) => template === path) ||
    Object.keys(openapi.paths).find((template) =>
      new RegExp('^' + template.replace(/\./g, '\\.').replace(/\{\w+\}/g, '[^/]+') + '$').test(path));
}

function checkAnswer({ method, path, status, headers, body }) {
  const template = pathOf(path);
  if (!template) {   // A path that is not there.
    const problem = ![400, 404, 413, 421, 431].includes(status) ? ['undocumented path'] : method === 'HEAD' ? []
      : check(draft2020, 'openapi.yaml#/components/schemas/Problem', body);
    return { id: 'no such path', problem: problem.length ? problem : null };
  }
  const id = `${method} ${template} ${status}`;
  const methods = openapi.paths[template];
  // HEAD is GET's answer without the body; methods that are not there are answered alike everywhere.
  const operation = methods[method.toLowerCase()] || methods.get;
  const place = operation.responses[status];
  const response = resolve(openapi, place);
  if (!response) {
    return { id, problem: [`${template} is not documented to answer ${status}`] };
  }
  const at = place.$ref || `#/paths/${escaped(template)}/${method === 'OPTIONS' ? 'options' : 'get'}/responses/${status}`;
  const problem = [];
  for (const header of Object.keys(response.headers || {})) {
    const value = headers[header.toLowerCase()];
    problem.push(...(value === undefined ? [`no header ${header}`] : check(
      draft2020, `openapi.yaml${at}/headers/${header}/schema`, value).map((text) => `${header}: ${text}`)));
  }
  const type = (headers['content-type'] || '').split(';')[0];
  if (!response.content) {
    problem.push(...(body ? ['a body where none is documented'] : []));
  } else if (!response.content[type]) {
    problem.push(`the type ${type} is not documented`);
  } else if (method !== 'HEAD') {
    problem.push(...check(draft2020, `openapi.yaml${at}/content/${escaped(type)}/schema`, body));
  }
  return { id, problem: problem.length ? problem : null };
}

// --- The documents -----------------------------------------------------------------------------------------------------

async function checkDocuments() {
  // AsyncAPI's schema brings draft-07 along, and so takes the place of Ajv's own copy.
  const validate = addFormats(new Ajv({ strict: false, meta: false, validateSchema: false })).compile(asyncapiSchema);
  if (!validate(asyncapi)) {
    problems.asyncapi.push(...text(validate.errors));
  }
  for (const [ajv, file, schemas] of [[draft7, 'asyncapi', asyncapi.components.schemas],
                                      [draft2020, 'asyncapi', asyncapi.components.schemas],
                                      [draft2020, 'openapi', openapi.components.schemas]]) {
    for (const schema of Object.keys(schemas)) {
      try {
        ajv.getSchema(`${file}.yaml#/components/schemas/${schema}`);
      } catch (error) {
        problems[file].push(`${schema}: ${error.message}`);
      }
    }
  }
  const { Validator } = await import('@seriousme/openapi-schema-validator');
  const validator = new Validator();
  await validator.addSpecRef(asyncapi, './asyncapi.yaml');
  const result = await validator.validate(openapi);
  if (!result.valid) {
    problems.openapi.push(JSON.stringify(result.errors));
  }
}

checkDocuments().then(() => {
  const { messages = [], answers = [], topics = [] } = JSON.parse(fs.readFileSync(0, 'utf8') || '{}');
  process.stdout.write(JSON.stringify({
    ...problems,
    known: Object.fromEntries(Object.entries(known).map(([channel, actions]) => [channel, Object.fromEntries(
      Object.entries(actions).map(([action, list]) => [action, list.map(({ id }) => id)]))])),
    knownAnswers: Object.entries(openapi.paths).flatMap(([path, methods]) => ['get', 'options'].flatMap(
      (method) => Object.keys((methods[method] || { responses: {} }).responses)
        .map((status) => `${method.toUpperCase()} ${path} ${status}`))),
    messages: messages.map((message) => checkMessage(message, topics)),
    answers: answers.map(checkAnswer),
  }));
});
