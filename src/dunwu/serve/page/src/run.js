// One answer, from request to the last token; the chat and both sides of a comparison use it.
import { generate, lacksTemplate } from "./api.js";
import { kept } from "./store.js";
import { app, modeOf, speak } from "./state.js";

const FLUSH_MS = 50;
const PAUSE_FACTOR = 3; // of what drawing took: a long answer on a slow machine leaves it time for its reader

/**
 * job: {model, messages, prompt, sampling, topLogprobs, signal, silent}; given: {text, tokens, thoughts} that the answer begins with.
 * `put(patch)` receives what changes, at most twenty times a second. Returns the last patch: {finish, seconds, count, …} or {error}.
 */
export async function answer(job, given, put) {
  const said = { text: given.text ?? "", thoughts: given.thoughts ?? "", tokens: [...(given.tokens ?? [])] };
  const speech = job.silent ? SILENCE : sentences();
  let timer = 0;
  let pause_ms = FLUSH_MS;
  const flush = () => {
    timer = 0;
    const begun = performance.now();
    put({ ...said, tokens: said.tokens.slice() });
    setTimeout(() => (pause_ms = Math.max(FLUSH_MS, PAUSE_FACTOR * (performance.now() - begun))));
  };
  const onUpdate = ({ text, thoughts, tokens }) => {
    said.text += text;
    said.thoughts += thoughts;
    said.tokens.push(...tokens);
    speech.add(text);
    timer ||= setTimeout(flush, pause_ms);
  };
  const once = (mode) => generate({ ...job, mode, prefix: given.text ?? "", topLogprobs: job.topLogprobs, onUpdate });

  let patch;
  try {
    patch = await inRightMode(job.model, once, put);
  } catch (error) {
    patch = job.signal?.aborted ? { finish: "stopped" } : { error };
  }
  clearTimeout(timer);
  speech.end();
  flush();
  return patch;
}

async function inRightMode(model, once, put) {
  let mode = modeOf(model);
  put({ mode });
  let result;
  try {
    result = await once(mode);
  } catch (error) {
    if (mode === "text" || !lacksTemplate(error)) throw error;
    rememberTextOnly(model);
    mode = "text";
    put({ mode });
    result = await once(mode);
  }
  const { finish, usage, seconds, first_s, probabilities } = result;
  return { finish: finish ?? "stop", seconds, first_s, count: usage?.completion_tokens ?? null, promptCount: usage?.prompt_tokens ?? null, probabilities };
}

export function rememberTextOnly(model) {
  app.set((state) => ({ textOnly: { ...state.textOnly, [model]: true } }));
  kept.write("textOnly", app.get().textOnly);
}

const SILENCE = { add() {}, end() {} };

// A screen reader hears whole sentences as they are finished, not every token and not the answer from its start again.
function sentences() {
  let rest = "";
  return {
    add(text) {
      rest += text;
      const end = Math.max(...[". ", "! ", "? ", "。", "！", "？", "\n"].map((mark) => rest.lastIndexOf(mark) + (rest.includes(mark) ? mark.length : 0)));
      if (end < 40) return;
      speak(rest.slice(0, end));
      rest = rest.slice(end);
    },
    end() {
      speak(rest);
      rest = "";
    },
  };
}
