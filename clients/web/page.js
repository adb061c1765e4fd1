import { Assay } from './assay.js';

// The proxy: ?proxy=http://127.0.0.1:8080 in the page's address.
const proxy = new URLSearchParams(location.search).get('proxy') ?? 'http://127.0.0.1:8080';
const assay = await Assay.connect(proxy, 'proto');

on('embed', async ({ texts }) => {
  const inputs = texts.split('\n');
  const { embeddings } = await assay.unary('assay.v1.EmbeddingService/Embed', { inputs });
  const [first, ...others] = embeddings.map(({ values }) => values);
  return others.map((vector, index) => [inputs[index + 1], dot(first, vector).toFixed(3)]);
});

on('evaluate', async ({ question, answer, context, reference }) => {
  const sample = { userInput: question, response: answer, retrievedContexts: [{ text: context }], reference };
  const metrics = [{ name: 'faithfulness' }, { name: 'semantic_similarity' }, { name: 'token_f1' }];
  const { results } = await assay.unary('assay.v1.EvaluationService/Evaluate', { sample, metrics });
  // A score that is not there is not 0.
  return results.map((result) => [result.metric, result.score?.toFixed(3) ?? result.status, result.reason]);
});

/** Vectors have length 1, so this is their cosine. */
function dot(a, b) {
  return a.reduce((sum, value, index) => sum + value * b[index], 0);
}

/** Shows the rows that a form's action gives, or what was wrong. */
function on(id, action) {
  const form = document.getElementById(id);
  const output = form.querySelector('output');
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    output.replaceChildren();
    try {
      output.append(table(await action(Object.fromEntries(new FormData(form)))));
    } catch (error) {
      output.append(element('p', `${error.message} ${(error.fields ?? []).join(' ')}`, 'error'));
    }
  });
}

function table(rows) {
  const body = element('table');
  for (const row of rows) {
    const line = body.insertRow();
    for (const text of row) line.insertCell().textContent = text;
  }
  return body;
}

function element(name, text = '', className = '') {
  return Object.assign(document.createElement(name), { textContent: text, className });
}

// For whoever drives the page.
globalThis.assay = assay;
