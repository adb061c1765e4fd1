import assert from 'node:assert/strict';
import { unary } from './assay.js';

export const MODEL_DIMENSIONS = 384;

export const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/** Fails unless all numbers agree to within tolerance. */
export function assertSame(a, b, tolerance = 1e-5) {
  assert.equal(a.length, b.length);
  a.forEach((value, i) => assert.ok(Math.abs(value - b[i]) <= tolerance, `number ${i} is ${value}, and ${b[i]}`));
}

export const embedChecks = {
  'embed gives vectors of unit length': async (server) => {
    const response = await unary(server.embedding, 'Embed', { inputs: ['A red fox.'] });
    const [embedding] = response.embeddings;
    assert.equal(embedding.values.length, MODEL_DIMENSIONS);
    assert.equal(response.dimensions, MODEL_DIMENSIONS);
    assert.ok(Math.abs(Math.sqrt(dot(embedding.values, embedding.values)) - 1) < 1e-5);
    assert.ok(response.totalTokens === embedding.tokenCount && embedding.tokenCount > 0 && !embedding.truncated);
    return `${embedding.values.length} numbers of length 1`;
  },

  'similar texts are nearer than unrelated ones': async (server) => {
    const [kitten, cat, tax] = await server.vectors([
      'A kitten sleeps on the sofa.',
      'The cat naps on the couch.',
      'The tax return is due in April.',
    ]);
    assert.ok(dot(kitten, cat) > dot(kitten, tax) + 0.2);
  },

  'chinese text is embedded': async (server) => {
    const [one, same, other] = await server.vectors(['今天天气很好。', '今天天气很好。', '股票下跌']);
    assertSame(one, same);
    assert.ok(dot(one, other) < 0.99);
  },

  'a batch keeps the order of its inputs': async (server) => {
    // Lengths differ, so the server computes them in another order.
    const texts = Array.from({ length: 24 }, (_, n) => 'word '.repeat(1 + ((37 * n) % 50)) + n);
    const batch = await server.vectors(texts);
    assert.equal(batch.length, texts.length);
    for (const [n, text] of texts.slice(0, 6).entries()) assertSame(batch[n], (await server.vectors([text]))[0]);
  },

  'truncation makes long texts fit': async (server) => {
    const { model } = await server.serverInfo();
    for (const truncation of ['TRUNCATION_END', 'TRUNCATION_START']) {
      const request = { inputs: ['word '.repeat(1000)], options: { truncation } };
      const [embedding] = (await unary(server.embedding, 'Embed', request)).embeddings;
      assert.ok(embedding.truncated);
      assert.equal(embedding.tokenCount, model.maxTokens);
    }
  },

  'dimensions keep the leading numbers': async (server) => {
    const [full] = await server.vectors(['A red fox.']);
    const [cut] = await server.vectors(['A red fox.'], { dimensions: 64 });
    const leading = full.slice(0, 64);
    const length = Math.sqrt(dot(leading, leading));
    assertSame(
      cut,
      leading.map((value) => value / length),
    );
  },
};
