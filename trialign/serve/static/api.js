// Requests to the service that this page came from.

/** What the service, or the network, refused. */
export class Problem extends Error {
  constructor({ value, rule, remedy }, status) {
    super(value);
    Object.assign(this, { value, rule, remedy, status });
  }
}

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      value: "The service does not answer",
      rule: "the page asks the service that it came from",
      remedy: "see whether the service still runs, then reload the page",
    }, 0);
  }
  let body = null;
  try {
    body = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (answer.ok && body !== null) return body;
  throw new Problem((body && body.error) || {
    value: `The service answered ${answer.status}`,
    rule: "an answer is JSON, an error says its rule",
    remedy: "see the log of the service",
  }, answer.status);
}

export function get(address, signal) {
  return ask(address, { signal });
}

export function post(address, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(address, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** Run only the newest of several tasks: an older one that still runs is aborted, and its answer dropped. */
export function newest(task) {
  let running = null;
  return async (...given) => {
    if (running) running.abort();
    const mine = (running = new AbortController());
    try {
      await task(mine.signal, ...given);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  };
}
