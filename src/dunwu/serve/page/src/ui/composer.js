import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { toggleThink } from "../actions.js";
import { currentModel, setSettings, useApp } from "../state.js";
import { kept } from "../store.js";
import { t } from "../words.js";
import { html } from "./html.js";
import { Icon, IconButton } from "./icons.js";

/** Grows with its text up to a third of the window. */
export function GrowingText({ value, onValue, boxRef, ...rest }) {
  const own = useRef();
  const box = boxRef ?? own;
  useLayoutEffect(() => {
    box.current.style.height = "auto";
    box.current.style.height = `${Math.min(box.current.scrollHeight, Math.max(120, window.innerHeight / 3))}px`;
  }, [value]);
  return html`<textarea ref=${box} value=${value} onInput=${(event) => onValue(event.target.value)} dir="auto" ...${rest}></textarea>`;
}

/** Text that is kept under `name` until it is sent: nothing typed is lost. */
export function useDraft(name) {
  const [text, setText] = useState(() => kept.read(`draft.${name}`, ""));
  useEffect(() => setText(kept.read(`draft.${name}`, "")), [name]);
  const write = (value) => {
    setText(value);
    kept.write(`draft.${name}`, value);
  };
  return [text, write];
}

/** Enter sends, Shift+Enter is a new line; an input method that is composing keeps its Enter. */
export const sendsOnEnter = (send) => (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send();
};

export function ModelPicker({ value, onChange, label = t("model") }) {
  const models = useApp((state) => state.models);
  if (!models.length) return null;
  return html`
    <label class="picker">
      <span class="visually-hidden">${label}</span>
      <select value=${value} onChange=${(event) => onChange(event.target.value)} aria-label=${label}>
        ${models.map(({ id }) => html`<option key=${id} value=${id}>${id}</option>`)}
      </select>
      <${Icon} name="open" />
    </label>
  `;
}

export function ThinkToggle() {
  const on = useApp((state) => state.settings.think);
  return html`
    <button type="button" class="think-toggle" aria-pressed=${on} onClick=${toggleThink} title=${t("think.help")}>
      <${Icon} name="think" /><span>${t("think")}</span>
    </button>
  `;
}

/** Where one writes: `draft` names what is kept, `send(text)` returns false where nothing was sent. */
export function Composer({ draft, send, stop, running, placeholder, picker = true, boxRef, onUp }) {
  const [text, setText] = useDraft(draft);
  const model = useApp(currentModel);
  const [waits, setWaits] = useState(false); // sent before the models were known
  const submit = () => {
    if (!text.trim() || running) return;
    setWaits(!model);
    if (!model) return;
    setText("");
    send(text);
  };
  useEffect(() => {
    if (waits && model) submit();
  }, [model]);
  return html`
    <form class="composer" onSubmit=${(event) => (event.preventDefault(), submit())}>
      <${GrowingText}
        boxRef=${boxRef}
        value=${text}
        onValue=${setText}
        rows="1"
        placeholder=${placeholder}
        aria-label=${placeholder}
        enterkeyhint="send"
        onKeyDown=${(event) => {
          if (event.key === "ArrowUp" && !text) onUp?.(event);
          sendsOnEnter(submit)(event);
        }}
      />
      <div class="composer-bar">
        ${picker && html`<${ModelPicker} value=${model} onChange=${(id) => setSettings({ model: id })} />`}
        <${ThinkToggle} />
        <span class="spring"></span>
        ${running
          ? html`<${IconButton} icon="stop" label=${t("stop")} class="primary" filled onClick=${stop} />`
          : html`<${IconButton} icon="send" label=${t("send")} class="primary" type="submit" disabled=${!text.trim()} />`}
      </div>
    </form>
  `;
}
