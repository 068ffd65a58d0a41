import { memo } from "preact/compat";
import { useEffect, useRef, useState } from "preact/hooks";
import { continueFrom, edit, goOn, retry, showBranch } from "../actions.js";
import { copyText } from "../markdown.js";
import { app, facts, useApp } from "../state.js";
import { siblings } from "../tree.js";
import { t } from "../words.js";
import { GrowingText, sendsOnEnter, useDraft } from "./composer.js";
import { classes, html } from "./html.js";
import { IconButton } from "./icons.js";
import { Markdown, splitThoughts, Thoughts } from "./markdown.js";
import { Legend, Measures, TokenView } from "./tokens.js";

function Branches({ id, node, ids }) {
  if (ids.length < 2) return null;
  const at = ids.indexOf(node.id);
  return html`
    <span class="branches" role="group" aria-label=${t("branches")}>
      <${IconButton} icon="back" label=${t("branch.back")} disabled=${at === 0} onClick=${() => showBranch(id, node, -1)} />
      <span class="number" aria-live="off">${at + 1}/${ids.length}</span>
      <${IconButton} icon="forth" label=${t("branch.forth")} disabled=${at === ids.length - 1} onClick=${() => showBranch(id, node, 1)} />
    </span>
  `;
}

function CopyButton({ text }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    setDone(await copyText(text));
    setTimeout(() => setDone(false), 1500);
  };
  return html`<${IconButton} icon=${done ? "check" : "copy"} label=${done ? t("copied") : t("copy")} onClick=${copy} />`;
}

function EditForm({ id, node }) {
  const [draft, setDraft] = useDraft(`edit.${node.id}`);
  const [touched, setTouched] = useState(draft !== "");
  const box = useRef();
  useEffect(() => {
    box.current.focus();
    box.current.setSelectionRange(text.length, text.length);
  }, []);
  const text = touched ? draft : node.text;
  const close = () => app.set({ editing: null });
  const submit = () => {
    if (!text.trim()) return;
    setDraft("");
    edit(id, node.id, text);
  };
  const write = (value) => {
    setTouched(true);
    setDraft(value);
  };
  return html`
    <form
      class="edit"
      onSubmit=${(event) => (event.preventDefault(), submit())}
      onKeyDown=${(event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        close();
      }}
    >
      <${GrowingText} boxRef=${box} value=${text} onValue=${write} aria-label=${t("edit")} rows="2" onKeyDown=${sendsOnEnter(submit)} />
      <div class="row">
        <span class="note">${t("edit.note")}</span>
        <button type="button" onClick=${close}>${t("cancel")}</button>
        <button type="submit" class="solid" disabled=${!text.trim()}>${t("send")}</button>
      </div>
    </form>
  `;
}

/** `prompt`: a text that the answer goes on from, and shows itself where no token is looked at. */
const Question = ({ id, node, ids, editing, running, prompt }) => {
  const think = useApp((state) => state.settings.think);
  return html`
  <article class=${classes("question", prompt && "prompt")} aria-label=${t("you")}>
    ${editing
      ? html`<${EditForm} id=${id} node=${node} />`
      : html`
          <div class=${classes("bubble", prompt && !think && "visually-hidden")} dir="auto">${node.text}</div>
          <div class="tools">
            <${Branches} id=${id} node=${node} ids=${ids} />
            <${CopyButton} text=${node.text} />
            <${IconButton} icon="edit" label=${t("edit")} disabled=${running} onClick=${() => app.set({ editing: node.id })} />
          </div>
        `}
  </article>
`;
};

/** What an answer says, in whichever way it is looked at. `given`: the text that it goes on from. */
export function AnswerBody({ node, live, onContinue, given = "" }) {
  const think = useApp((state) => state.settings.think);
  if (think && node.tokens.length) {
    return html`<${TokenView} tokens=${node.tokens} prefix=${node.prefix} label=${t("answer")} onContinue=${live ? null : onContinue} />`;
  }
  if (node.mode === "text") return html`<div class="whole-text" dir="auto"><span class="given-text" aria-hidden="true">${given}</span><span class="continued">${node.text}</span></div>`;
  const { thoughts, said, thinking } = splitThoughts(node.text, node.thoughts);
  return html`
    <${Thoughts} text=${thoughts} open=${thinking && live} />
    <div dir="auto"><${Markdown} text=${said} /></div>
    ${think && !live && node.text && html`<p class="note">${t("think.missing")}</p>`}
  `;
}

export const Failure = ({ failure, children }) => html`
  <div class="failure" role="alert">
    <p><strong>${failure.what}</strong> ${failure.remedy}</p>
    ${failure.detail && html`<p class="detail">${t("error.said")} <bdi>${failure.detail}</bdi></p>`}
    <div class="row">${children}</div>
  </div>
`;

const CROWDED = 0.6; // of what the model can read: time to say so

export function speedLine(node, room) {
  const n = node.count ?? node.tokens.length - (node.prefix ?? 0);
  const parts = [];
  if (n > 0) parts.push(t("measure.n", { n }));
  if (n > 1 && node.seconds > 0) parts.push(t("measure.speed", { speed: (n / node.seconds).toFixed(n / node.seconds < 10 ? 1 : 0) }));
  const share = room && node.promptCount ? (node.promptCount + n) / room : 0;
  if (share >= CROWDED) parts.push(t("measure.context", { percent: Math.round(share * 100) }));
  if (node.finish === "length") parts.push(t("finish.length"));
  if (node.finish === "stopped") parts.push(t("finish.stopped"));
  return parts.join(" · ");
}

function Answer({ id, node, ids, live, running, given }) {
  const think = useApp((state) => state.settings.think);
  const reading = useApp((state) => facts(node.model, state).loaded === false);
  const room = useApp((state) => facts(node.model, state).max_model_len);
  const cut = !live && node.text && !node.children.length && (node.finish === "length" || node.finish === "stopped" || node.error);
  return html`
    <article class=${classes("answer", live && "live", node.mode === "text" && "plain-text")} aria-label=${`${t("answer")}: ${node.model}`} aria-busy=${live}>
      ${live && !node.text && reading && html`<p class="note">${t("reading", { model: node.model })}</p>`}
      <${AnswerBody} node=${node} live=${live} given=${given} onContinue=${(i, alternative) => continueFrom(id, node.id, i, alternative)} />
      ${live && !node.text && !node.thoughts && html`<p class="waiting"><span></span><span></span><span></span><span class="visually-hidden">${t("waiting")}</span></p>`}
      ${node.error &&
      html`
        <${Failure} failure=${node.error}>
          ${cut && html`<button type="button" onClick=${() => goOn(id, node.id)}>${t("goon")}</button>`}
          <button type="button" onClick=${() => retry(id, node.id)}>${t("retry")}</button>
        <//>
      `}
      ${think && node.tokens.length > 0 && !live && html`<div class="think-foot"><${Measures} tokens=${node.tokens} prefix=${node.prefix} /><${Legend} /></div>`}
      ${!live &&
      html`
        <div class="tools">
          <${Branches} id=${id} node=${node} ids=${ids} />
          ${node.text && html`<${CopyButton} text=${node.text} />`}
          ${!node.error && html`<${IconButton} icon="retry" label=${t("retry")} disabled=${running} onClick=${() => retry(id, node.id)} />`}
          ${cut && !node.error && html`<${IconButton} icon="on" label=${t("goon")} disabled=${running} onClick=${() => goOn(id, node.id)} />`}
          <span class="facts">${[node.model, speedLine(node, room)].filter(Boolean).join(" · ")}</span>
        </div>
      `}
    </article>
  `;
}

export const Message = memo(({ conversation, node, live, running, editing, prompt }) => {
  const ids = siblings(conversation, node);
  return node.role === "user"
    ? html`<${Question} id=${conversation.id} node=${node} ids=${ids} editing=${editing} running=${running} prompt=${prompt} />`
    : html`<${Answer} id=${conversation.id} node=${node} ids=${ids} live=${live} running=${running} given=${conversation.nodes[node.parent]?.text} />`;
}, (a, b) => a.node === b.node && a.live === b.live && a.running === b.running && a.editing === b.editing && a.prompt === b.prompt && siblings(a.conversation, a.node).length === siblings(b.conversation, b.node).length);
