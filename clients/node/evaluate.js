import assert from 'node:assert/strict';
import { bidirectional, detail, unary } from './assay.js';
import { badFields, refused } from './errors.js';

/** In Chinese; the first sentence of the response is supported by the first context, the second by none. */
export const SAMPLE = {
  userInput: '汉江大桥是哪一年通车的？',
  response: '汉江大桥于1962年通车。大桥漆成绿色。',
  retrievedContexts: [
    { id: 'doc-3', text: '建设历时三年。汉江大桥于1962年5月4日通车，全长412米。' },
    { id: 'doc-4', text: '武汉位于湖北省。' },
  ],
  reference: '汉江大桥于1962年通车。',
};

export const named = (...metrics) => metrics.map((name) => ({ name }));

export function evaluate(server, metrics, options = {}, sample = SAMPLE, call = {}) {
  return unary(server.evaluation, 'Evaluate', { sample, metrics: named(...metrics), options }, call);
}

const byMetric = ({ results }) => Object.fromEntries(results.map((result) => [result.metric, result]));

export const unjudgedChecks = {
  'metrics are listed with what they need': async (server) => {
    const { metrics } = await unary(server.evaluation, 'ListMetrics', {});
    const faithfulness = metrics.find(({ name }) => name === 'faithfulness');
    assert.ok(faithfulness.needsJudge && faithfulness.higherIsBetter);
    assert.deepEqual(faithfulness.requiredFields, ['user_input', 'response', 'retrieved_contexts']);
  },

  'without a judge a metric says so and others have scores': async (server) => {
    const results = byMetric(await evaluate(server, ['faithfulness', 'token_f1']));
    assert.equal(results.faithfulness.status, 'METRIC_STATUS_JUDGE_NOT_CONFIGURED');
    // undefined where there is none, for 0 is a score.
    assert.equal(results.faithfulness.score, undefined);
    assert.equal(detail(results.faithfulness.error, 'ErrorInfo').reason, 'JUDGE_NOT_CONFIGURED');
    assert.ok(results.token_f1.score > 0);
  },

  'mistakes of a sample are named': async (server) => {
    const status = await refused(evaluate(server, ['context_recall', 'beauty'], {}, { response: 'Paris.' }));
    const fields = badFields(status);
    for (const field of ['sample.retrieved_contexts', 'sample.reference', 'metrics[1].name']) assert.ok(fields[field]);
  },
};

export const judgedChecks = {
  'a claim comes with its evidence': async (server) => {
    const response = await evaluate(server, ['faithfulness']);
    const { score, claims } = byMetric(response).faithfulness;
    assert.equal(score, 0.5);
    assert.deepEqual([claims[0].verdict, claims[1].verdict], [true, false]);
    const [place] = claims[0].evidence;
    const context = Buffer.from(SAMPLE.retrievedContexts[place.contextIndex].text);
    const quote = context.subarray(place.startByte, place.endByte).toString();
    assert.equal(quote, '汉江大桥于1962年5月4日通车，全长412米。');
    assert.deepEqual([place.contextId, response.language, response.judgeModel], ['doc-3', 'zh', 'stand-in']);
    return `${score}: 1 claim of ${claims.length}, quoted`;
  },

  'a partial result has bounds and no score': async (server) => {
    // Two judges rate it; the budget is enough for one.
    const response = await evaluate(server, ['response_groundedness'], { budget: { judgeCalls: 1 }, useCache: false });
    const [result] = response.results;
    assert.equal(result.status, 'METRIC_STATUS_PARTIAL');
    assert.equal(result.score, undefined);
    assert.ok(result.lower < result.upper);
  },

  'what is known comes before the deadline': async (server) => {
    // This judge takes far longer.
    const call = evaluate(server, ['faithfulness', 'token_f1'], { judge: 'slow' }, SAMPLE, { timeout: 3_000 });
    const results = byMetric(await call);
    assert.equal(results.faithfulness.status, 'METRIC_STATUS_DEADLINE');
    assert.ok(results.token_f1.score > 0);
  },

  'a stream tells metrics, samples and their summary': async (server) => {
    const requests = Array.from({ length: 20 }, (_, n) => ({
      id: String(n),
      request: {
        sample: n === 7 ? { ...SAMPLE, retrievedContexts: [] } : SAMPLE,
        metrics: named('faithfulness', 'token_f1'),
      },
    }));
    const events = await bidirectional(server.evaluation, 'EvaluateStream', requests);
    const of = (kind) => events.filter(({ event }) => event === kind);
    assert.deepEqual([of('result').length, of('sample').length], [38, 19]);
    assert.deepEqual(
      of('error').map(({ id }) => id),
      ['7'],
    );
    const { summary } = events.at(-1);
    assert.deepEqual([summary.samples, summary.refused, summary.metrics.length], [19, 1, 2]);
    for (const metric of summary.metrics) assert.deepEqual([metric.scored, metric.coverage], [19, 1]);
    return `${summary.samples} samples, ${summary.refused} refused`;
  },
};
