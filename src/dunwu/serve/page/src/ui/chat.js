import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { loadModels, send, stop } from "../actions.js";
import { app, currentModel, modeOf, useApp } from "../state.js";
import { path } from "../tree.js";
import { t } from "../words.js";
import { Composer } from "./composer.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";
import { Failure, Message } from "./message.js";

const NEAR_PX = 80;

/** Keeps the end in sight while an answer grows, unless the reader has scrolled away. */
export function useFollow(count, id) {
  const box = useRef();
  const follows = useRef(true);
  const [away, setAway] = useState(false);
  const toEnd = () => {
    follows.current = true;
    box.current.scrollTop = box.current.scrollHeight;
  };
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    follows.current = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    setAway(!follows.current);
  };
  useLayoutEffect(toEnd, [id, count]);
  useLayoutEffect(() => {
    if (follows.current) toEnd();
    onScroll();
  });
  return { box, onScroll, toEnd, away };
}

function Welcome() {
  const model = useApp(currentModel);
  const kind = useApp((state) => modeOf(currentModel(state), state));
  const modelsState = useApp((state) => state.modelsState);
  const failure = useApp((state) => state.modelsFailure);
  if (modelsState === "failed") {
    return html`<div class="welcome"><${Failure} failure=${failure}><button type="button" onClick=${loadModels}>${t("again")}</button><//></div>`;
  }
  return html`
    <div class="welcome">
      <div class="seal large" aria-hidden="true">顿悟</div>
      <h1>${t(`welcome.${kind}`)}</h1>
      ${model && html`<p class="lead">${t(`welcome.${kind}.with`, { model })}</p>`}
      <ul class="starters">
        ${[1, 2, 3].map((n) => html`<li key=${n}><button type="button" disabled=${!model} onClick=${() => send(t(`starter.${kind}.${n}`))}>${t(`starter.${kind}.${n}`)}</button></li>`)}
      </ul>
    </div>
  `;
}

export function Chat() {
  const conversation = useApp((state) => state.conversations[state.current] ?? null);
  const current = useApp((state) => state.current);
  const run = useApp((state) => state.running[state.current] ?? null);
  const editing = useApp((state) => state.editing);
  const textOnly = useApp((state) => modeOf(currentModel(state), state) === "text");
  const nodes = conversation ? path(conversation) : [];
  const { box, onScroll, toEnd, away } = useFollow(nodes.length, current);
  const input = useRef();
  useEffect(() => input.current?.focus({ preventScroll: true }), [current]);

  const editLast = (event) => {
    const last = nodes.findLast((node) => node.role === "user");
    if (!last || run) return;
    event.preventDefault();
    app.set({ editing: last.id });
  };
  return html`
    <div class="chat">
      <div class="scroll" ref=${box} onScroll=${onScroll} tabindex="-1">
        ${nodes.length === 0
          ? html`<${Welcome} />`
          : html`<div class="log" role="log" aria-live="off" aria-label=${t("conversation")}>
              <h1 class="visually-hidden">${conversation.title}</h1>
              ${nodes.map((node, i) => html`<${Message} key=${node.id} prompt=${nodes[i + 1]?.mode === "text"} conversation=${conversation} node=${node} live=${run?.node === node.id} running=${Boolean(run)} editing=${editing === node.id} />`)}
            </div>`}
        <div class="dock">
        ${away && html`<${IconButton} icon="down" label=${t("toend")} class="to-end" onClick=${toEnd} />`}
        <${Composer}
          draft=${current ?? "new"}
          boxRef=${input}
          send=${send}
          stop=${() => stop()}
          running=${Boolean(run)}
          placeholder=${textOnly ? t("write.text") : t("write")}
          onUp=${editLast}
        />
        </div>
      </div>
    </div>
  `;
}
