// What went wrong, in words, with what to do.
import { ApiError } from "./api.js";
import { t } from "./words.js";

/** {what, remedy, detail, key} for an error; key: the server wants an API key. */
export function explain(error) {
  if (!(error instanceof ApiError)) return { what: t("error.page"), remedy: t("error.page.remedy"), detail: String(error?.message ?? error) };
  const detail = error.message;
  const say = (name, values) => ({ what: t(`error.${name}`, values), remedy: t(`error.${name}.remedy`, values), detail });
  if (error.code === "unreachable") return { ...say("unreachable"), detail: "" };
  if (error.code === "interrupted") return { ...say("interrupted"), detail: "" };
  if (error.status === 401) return { ...say("key"), key: true };
  if (error.status === 403) return say("forbidden");
  if (error.status === 404) return say("model");
  if (error.status === 413) return say("large");
  if (error.status === 429) return say("busy", { s: Math.ceil(error.retryAfter_s ?? 5) });
  if (error.status === 503) return say("starting", { s: Math.ceil(error.retryAfter_s ?? 5) });
  if (error.status === 408 || error.status === 504) return say("slow");
  if (error.code === "context_length_exceeded" || /context (length|window)|maximum context|too (many tokens|long)/i.test(detail)) return say("context");
  if (error.status >= 500) return say("server");
  return say("refused");
}
