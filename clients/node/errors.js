import assert from 'node:assert/strict';
import grpc from '@grpc/grpc-js';
import { detail, statusOf, unary } from './assay.js';

/** The google.rpc.Status of a call that must fail with INVALID_ARGUMENT. */
export async function refused(call) {
  const error = await call.then(
    () => assert.fail('the call succeeded'),
    (error) => error,
  );
  assert.equal(error.code, grpc.status.INVALID_ARGUMENT, error);
  return statusOf(error);
}

/** The description of every field violation by field. */
export function badFields(status) {
  const violations = detail(status, 'BadRequest').fieldViolations;
  return Object.fromEntries(violations.map(({ field, description }) => [field, description]));
}

export const errorChecks = {
  'an empty input is named': async (server) => {
    const status = await refused(unary(server.embedding, 'Embed', { inputs: ['fine', '', 'fine'] }));
    const fields = Object.keys(badFields(status));
    assert.deepEqual(fields, ['inputs[1]']);
    const info = detail(status, 'ErrorInfo');
    assert.deepEqual([info.reason, info.domain], ['INVALID_REQUEST', 'assay.v1']);
    return `BadRequest ${fields[0]}, ErrorInfo ${info.reason}`;
  },

  'a text that is too long is named with its tokens and the limit': async (server) => {
    const { model } = await server.serverInfo();
    const status = await refused(unary(server.embedding, 'Embed', { inputs: ['fine', 'word '.repeat(998)] }));
    // 998 words, [CLS] and [SEP].
    const description = badFields(status)['inputs[1]'];
    assert.ok(description.includes('1000') && description.includes(String(model.maxTokens)), description);
  },
};
