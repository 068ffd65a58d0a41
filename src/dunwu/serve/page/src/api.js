// The server's interface: OpenAI's routes, read as streams. Addresses are relative, so the page also works below a path.
import { isSpecial, partialBytes, wholes } from "./tokens.js";
import { kept } from "./store.js";

export class ApiError extends Error {
  /** status 0: no answer at all. */
  constructor(status, { message = "", code = null, type = null, param = null, retryAfter_s = null } = {}) {
    super(message);
    Object.assign(this, { status, code, type, param, retryAfter_s });
  }
}

export const key = {
  read() {
    try {
      return sessionStorage.getItem("dunwu.key") ?? kept.read("key", null);
    } catch {
      return kept.read("key", null);
    }
  },
  write(value, remember) {
    kept.write("key", remember ? value : undefined);
    try {
      if (value && !remember) sessionStorage.setItem("dunwu.key", value);
      else sessionStorage.removeItem("dunwu.key");
    } catch {
      // without storage the key is asked for again
    }
  },
};

async function request(route, { body, signal } = {}) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  const secret = key.read();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  let response;
  try {
    response = await fetch(route, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { code: "unreachable", message: String(error.message ?? error) });
  }
  if (!response.ok) throw await readError(response);
  return response;
}

async function readError(response) {
  const retryAfter_s = Number.parseFloat(response.headers.get("Retry-After")) || null;
  let error = {};
  try {
    const text = await response.text();
    const body = JSON.parse(text);
    error = body.error ?? body;
    if (typeof error === "string") error = { message: error };
    if (!error.message && body.detail) error = { message: typeof body.detail === "string" ? body.detail : JSON.stringify(body.detail) };
  } catch {
    // not JSON (a proxy's page): the status says enough
  }
  return new ApiError(response.status, { ...error, retryAfter_s });
}

export async function listModels(signal) {
  const body = await (await request("v1/models", { signal })).json();
  return (body.data ?? []).filter((model) => typeof model?.id === "string");
}

/** {count, tokens: [{id, t, b, whole}]}. `asQuestion`: as the chat template writes it, with all that stands around a question. */
export async function tokenize(model, text, { asQuestion = false, signal } = {}) {
  const what = asQuestion ? { messages: [{ role: "user", content: text }] } : { prompt: text, add_special_tokens: false };
  const body = await (await request("tokenize", { body: { model, ...what, return_token_strs: true }, signal })).json();
  const texts = body.token_strs ?? body.tokens.map((id) => `#${id}`);
  const partial = texts.map((one, i) => partialBytes(one, body.token_bytes?.[i]));
  const whole = wholes(partial);
  return { count: body.count ?? body.tokens.length, tokens: body.tokens.map((id, i) => ({ id, t: texts[i], b: partial[i], whole: whole[i] })) };
}

/** Events of a text/event-stream: the data of each, as text. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += value;
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, ""));
        if (data.length) yield data.join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Names as the server's API has them; an empty field is left out, so the server's own default holds.
function samplingFields({ temperature, top_p, top_k, min_p, max_tokens, seed, stop }) {
  const fields = { temperature, top_p, top_k, min_p, max_tokens, seed };
  for (const name of Object.keys(fields)) if (typeof fields[name] !== "number" || Number.isNaN(fields[name])) delete fields[name];
  const stops = (stop ?? "").split("\n").filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
  if (stops.length) fields.stop = stops;
  return fields;
}

export const TEXT_TOKENS = 256; // OpenAI's own default for texts is 16, a line

function chatRequest({ model, messages, prefix, sampling, topLogprobs }) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...samplingFields(sampling) };
  if (topLogprobs > 0) Object.assign(body, { logprobs: true, top_logprobs: topLogprobs });
  if (prefix) {
    body.messages = [...messages, { role: "assistant", content: prefix }];
    Object.assign(body, { continue_final_message: true, add_generation_prompt: false });
  }
  return ["v1/chat/completions", body];
}

function textRequest({ model, prompt, prefix, sampling, topLogprobs }) {
  const body = { model, prompt: prompt + prefix, stream: true, stream_options: { include_usage: true }, max_tokens: TEXT_TOKENS, ...samplingFields(sampling) };
  if (topLogprobs > 0) body.logprobs = topLogprobs;
  return ["v1/completions", body];
}

const entry = ({ token, logprob, bytes }) => {
  const partial = partialBytes(token, bytes);
  return partial ? [token, logprob, partial] : [token, logprob];
};

function chatTokens(choice) {
  return (choice.logprobs?.content ?? []).map((item) => {
    const [t, lp, b] = entry(item);
    return { t, lp, top: (item.top_logprobs ?? []).map(entry), ...(b && { b }) };
  });
}

function textTokens(choice) {
  const { tokens = [], token_logprobs = [], top_logprobs = [] } = choice.logprobs ?? {};
  return tokens.map((token, i) => {
    const [t, lp, b] = entry({ token, logprob: token_logprobs[i] ?? null });
    const top = Object.entries(top_logprobs?.[i] ?? {}).sort((one, other) => other[1] - one[1]);
    return { t, lp, top: top.map(([name, logprob]) => entry({ token: name, logprob })), ...(b && { b }) };
  });
}

/**
 * Asks and streams. `mode` "chat" sends `messages`, "text" sends `prompt`; `prefix` is what the answer is to begin with.
 * Calls `onUpdate({text, thoughts, tokens})` with what is new; returns {finish, usage, seconds, first_s, probabilities}.
 * Raises ApiError; one with code "interrupted" where the stream broke off, after what came was handed over.
 */
export async function generate(job) {
  try {
    return await stream(job);
  } catch (error) {
    // A server that can't tell probabilities should still be heard.
    if (error instanceof ApiError && error.status === 400 && job.topLogprobs > 0 && /logprobs/.test(error.param ?? error.message)) {
      return { ...(await stream({ ...job, topLogprobs: 0 })), probabilities: false };
    }
    throw error;
  }
}

async function stream(job) {
  const [route, body] = job.mode === "text" ? textRequest(job) : chatRequest(job);
  const begun = performance.now();
  const response = await request(route, { body, signal: job.signal });
  const result = { finish: null, usage: null, first_s: null, seconds: 0, probabilities: true };
  let complete = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        complete = true;
        break;
      }
      read(JSON.parse(data), job, result, begun);
    }
  } catch (error) {
    if (error instanceof ApiError || job.signal?.aborted) throw error;
    throw new ApiError(0, { code: "interrupted", message: String(error.message ?? error) });
  }
  if (!complete && !result.finish) throw new ApiError(0, { code: "interrupted" });
  result.seconds = (performance.now() - begun) / 1000;
  return result;
}

function read(chunk, job, result, begun) {
  if (chunk.error) throw new ApiError(chunk.error.code === "cancelled" ? 503 : 500, chunk.error);
  if (chunk.usage) result.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const text = (job.mode === "text" ? choice.text : choice.delta?.content) ?? "";
  const thoughts = choice.delta?.reasoning_content ?? choice.delta?.reasoning ?? "";
  const tokens = (job.mode === "text" ? textTokens(choice) : chatTokens(choice)).filter((token) => !isSpecial(token.t) || text.includes(token.t));
  if (result.first_s === null && (text || thoughts)) result.first_s = (performance.now() - begun) / 1000;
  if (choice.finish_reason) result.finish = choice.finish_reason;
  if (text || thoughts || tokens.length) job.onUpdate({ text, thoughts, tokens });
}

/** A model without a chat template: it continues text. */
export const lacksTemplate = (error) =>
  error instanceof ApiError && error.status === 400 && (/template/.test(error.code ?? "") || /chat[ _-]?template/i.test(error.message));
