import { memo } from "preact/compat";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { blocks, fragment } from "../markdown.js";
import { t } from "../words.js";
import { html } from "./html.js";

const Block = memo(
  ({ token }) => {
    const box = useRef();
    useLayoutEffect(() => {
      box.current.replaceChildren(fragment(token, { copy: t("copy"), copied: t("copied") }));
    }, [token.raw]);
    return html`<div class="block" ref=${box}></div>`;
  },
  (before, after) => before.token.raw === after.token.raw && before.token.type === after.token.type,
);

/** Text of a model, block by block: while it grows only its last block is set anew. */
export function Markdown({ text }) {
  const parts = useMemo(() => blocks(text), [text]);
  return html`<div class="markdown">${parts.map((token, i) => html`<${Block} key=${i} token=${token} />`)}</div>`;
}

/** What a reasoning model says to itself first, folded away. */
export function Thoughts({ text, open }) {
  if (!text.trim()) return null;
  return html`<details class="thoughts" open=${open}><summary>${t("thoughts")}</summary><${Markdown} text=${text} /></details>`;
}

/** Splits a leading <think>…</think> off. */
export function splitThoughts(text, thoughts = "") {
  const match = /^\s*<think>([^]*?)(?:<\/think>|$)/.exec(text);
  if (!match) return { thoughts, said: text, thinking: false };
  return { thoughts: thoughts + match[1], said: text.slice(match[0].length), thinking: !match[0].endsWith("</think>") };
}
