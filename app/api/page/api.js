// The service: requests with the API key, problems, jobs and their events.

const jobs = new Set(); // paths of those that run

export const root = new URL(".", document.baseURI);

export const key = {
  get: () => sessionStorage.getItem("key") || "",
  set: (value) => (value ? sessionStorage.setItem("key", value) : sessionStorage.removeItem("key")),
};

/** A problem document of the service (RFC 9457), or one of the page's own. */
export class Problem extends Error {
  constructor(document) {
    super(document.detail || document.title);
    Object.assign(this, document);
  }
}

/** Return the response of the service to `path`. Throws Problem, and AbortError after `signal`. */
export async function call(path, { headers, ...options } = {}) {
  const sent = { ...(key.get() && { "X-API-Key": key.get() }), ...headers };
  let answer;
  try {
    answer = await fetch(new URL(path, root), { ...options, headers: sent, cache: "no-cache" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The service does not answer", detail: "Check that it runs and that you are online." });
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ title: `HTTP status ${answer.status}` }));
  throw new Problem({ status: answer.status, ...problem });
}

export const get = async (path) => (await call(path, { headers: { Accept: "application/json" } })).json();

/**
 * Send a form to a task and return {blob, name, model, applied}. `report` gets the job whenever it changes.
 *
 * The service keeps the result of a job; here it is deleted as soon as it has been received.
 */
export async function run(task, form, signal, report) {
  // Not aborted by `signal`: a request that ends before its answer leaves a job whose address nobody knows.
  const asked = call(task, { method: "POST", body: form, headers: { Prefer: "wait=2" } });
  const cancelled = new Promise((_, fail) => signal.addEventListener("abort", () => fail(signal.reason)));
  asked.then(
    async (answer) => signal.aborted && end(address(answer), true),
    () => {},
  );
  let answer = await Promise.race([asked, cancelled]);
  const job = address(answer);
  if (answer.status === 202) {
    jobs.add(job);
    try {
      report(await answer.json());
      await follow(job, signal, report);
      answer = await call(`${job}/result`, { signal });
    } catch (error) {
      if (signal.aborted) end(job, true);
      throw error;
    } finally {
      jobs.delete(job);
    }
  }
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
  const result = {
    blob: await answer.blob(),
    name: name ? name[1] : `${task}.png`,
    model: answer.headers.get("X-Model") || "",
    applied: answer.headers.get("X-Applied") || "",
  };
  end(job);
  return result;
}

/** Jobs that run are of no use to anybody when the page is closed. */
addEventListener("pagehide", () =>
  jobs.forEach((job) => call(job, { method: "DELETE", keepalive: true }).catch(() => {})),
);

/** Return the path of the job that made a response, relative to the page, or "". */
function address(answer) {
  const found = answer.headers.get("Location") || answer.headers.get("Content-Location") || "";
  return found.replace(/^\//, "").replace(/\/result$/, "");
}

/** Delete a job; one that is not finished is cancelled first. */
async function end(job, unfinished = false) {
  if (!job) return;
  for (let times = unfinished ? 2 : 1; times; times--) await call(job, { method: "DELETE" }).catch(() => {});
}

/** Report a job until it is finished: by events, and if the stream breaks by asking for its state. */
async function follow(job, signal, report) {
  for (;;) {
    try {
      const answer = await call(`${job}/events`, { signal });
      for await (const now of events(answer.body)) {
        report(now);
        if (isOver(now)) return;
      }
    } catch (error) {
      if (signal.aborted) throw error;
    }
    await new Promise((done) => setTimeout(done, 1000));
    const now = await (await call(job, { signal })).json();
    report(now);
    if (isOver(now)) return;
  }
}

const isOver = (job) => !["queued", "running"].includes(job.state);

/** Yield the data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split(/\r?\n\r?\n/);
    text = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length) yield JSON.parse(data.map((line) => line.slice(5)).join("\n"));
    }
  }
}

/** Return the command that sends the same form. `parts` are [field, text, whether it is a file]. */
export function curl(task, parts, output) {
  const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const fields = parts.map(([name, value, file]) => `-F ${quote(`${name}=${file ? "@" : ""}${value}`)}`);
  const header = key.get() ? ['-H "X-API-Key: $API_KEY"'] : [];
  return ["curl -f", `-o ${quote(output)}`, ...header, ...fields, quote(new URL(task, root).href)].join(" ");
}
