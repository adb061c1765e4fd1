import assert from 'node:assert/strict';
import { once } from 'node:events';
import grpc from '@grpc/grpc-js';
import { bidirectional, detail, TIMEOUT, unary } from './assay.js';
import { assertSame } from './embed.js';

const BIG_BATCH = Array(64).fill('a long text '.repeat(60));

/** The answers to all texts; each has the id that `id` gives for its number. */
function embedStream(server, texts, id = String) {
  const requests = texts.map((input, n) => ({ id: id(n), input }));
  return bidirectional(server.embedding, 'EmbedStream', requests);
}

export const streamChecks = {
  'a stream answers every input under its id': async (server) => {
    const texts = Array.from({ length: 200 }, (_, n) => `Sentence number ${n}.`);
    const answers = new Map((await embedStream(server, texts)).map((answer) => [answer.id, answer]));
    assert.equal(answers.size, texts.length);
    for (const n of [0, 77, 199]) {
      assertSame(answers.get(String(n)).embedding.values, (await server.vectors([texts[n]]))[0]);
    }
    return `${answers.size} ids of ${texts.length}`;
  },

  'a bad input fails alone and the stream goes on': async (server) => {
    const answers = await embedStream(server, ['one', '', 'three']);
    const results = Object.fromEntries(answers.map((answer) => [answer.id, answer.result]));
    assert.deepEqual(results, { 0: 'embedding', 1: 'error', 2: 'embedding' });
    const { error } = answers.find((answer) => answer.id === '1');
    assert.equal(error.code, grpc.status.INVALID_ARGUMENT);
    assert.equal(detail(error, 'BadRequest').fieldViolations[0].field, 'input');
  },

  'answers that share an id keep their order': async (server) => {
    const texts = Array.from({ length: 20 }, (_, n) => 'word '.repeat(60 - 3 * n) + n);
    const answers = await embedStream(server, texts, () => 'same');
    const expected = await server.vectors(texts);
    assert.equal(answers.length, texts.length);
    answers.forEach((answer, n) => assertSame(answer.embedding.values, expected[n]));
  },

  'a deadline ends the call': async (server) => {
    const call = unary(server.embedding, 'Embed', { inputs: BIG_BATCH }, { timeout: 5 });
    await assert.rejects(call, { code: grpc.status.DEADLINE_EXCEEDED });
    return 'DEADLINE_EXCEEDED';
  },

  'a cancelled call leaves the server free': async (server) => {
    const error = await new Promise((resolve) => {
      const call = server.embedding.Embed({ inputs: BIG_BATCH }, { deadline: Date.now() + TIMEOUT }, resolve);
      call.cancel();
    });
    assert.equal(error.code, grpc.status.CANCELLED);
    assert.equal((await server.vectors(['Still there?'])).length, 1);
  },

  'a stream cancelled midway leaves the server free': async (server) => {
    const stream = server.embedding.EmbedStream({ deadline: Date.now() + TIMEOUT });
    // As many as the server computes side by side; the stream stays open.
    BIG_BATCH.forEach((input, n) => stream.write({ id: String(n), input }));
    const [answer] = await once(stream, 'data');
    assert.equal(answer.result, 'embedding');
    stream.cancel();
    const [error] = await once(stream, 'error');
    assert.equal(error.code, grpc.status.CANCELLED);
    assert.equal((await server.vectors(['Still there?'])).length, 1);
    return 'CANCELLED';
  },
};
