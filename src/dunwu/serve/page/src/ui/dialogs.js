import { useEffect, useRef, useState } from "preact/hooks";
import { giveKey, removeAll } from "../actions.js";
import { key } from "../api.js";
import { app, useApp } from "../state.js";
import { t } from "../words.js";
import { html } from "./html.js";

/** A modal dialog: the browser keeps the focus inside and gives it back. */
function Modal({ label, children }) {
  const box = useRef();
  useEffect(() => {
    box.current.showModal();
  }, []);
  const close = () => app.set({ dialog: null });
  return html`
    <dialog ref=${box} aria-label=${label} onClose=${close} onClick=${(event) => event.target === box.current && box.current.close()} onKeyDown=${(event) => event.stopPropagation()}>
      <div class="dialog">${children}</div>
    </dialog>
  `;
}

function KeyDialog() {
  const [value, setValue] = useState("");
  const [remember, setRemember] = useState(false);
  const [refused] = useState(() => Boolean(key.read()));
  const submit = (event) => {
    event.preventDefault();
    if (value.trim()) giveKey(value.trim(), remember);
  };
  return html`
    <${Modal} label=${t("key")}>
      <form onSubmit=${submit}>
        <h2>${t("key")}</h2>
        <p role=${refused ? "alert" : undefined}>${t(refused ? "key.refused" : "key.text")}</p>
        <label class="field tall"><span>${t("key")}</span><input type="password" name="key" autocomplete="off" spellcheck="false" value=${value} onInput=${(event) => setValue(event.target.value)} autofocus /></label>
        <label class="check"><input type="checkbox" name="remember" checked=${remember} onChange=${(event) => setRemember(event.target.checked)} /> ${t("key.remember")}</label>
        <div class="row end">
          <button type="button" onClick=${() => app.set({ dialog: null })}>${t("cancel")}</button>
          <button type="submit" class="solid" disabled=${!value.trim()}>${t("key.use")}</button>
        </div>
      </form>
    <//>
  `;
}

function ClearDialog() {
  return html`
    <${Modal} label=${t("history.clear")}>
      <h2>${t("history.clear")}</h2>
      <p>${t("history.clear.text")}</p>
      <div class="row end">
        <button type="button" autofocus onClick=${() => app.set({ dialog: null })}>${t("cancel")}</button>
        <button type="button" class="solid danger" onClick=${removeAll}>${t("history.clear.do")}</button>
      </div>
    <//>
  `;
}

const SHORTCUTS = [
  ["Enter", "send"],
  ["Shift Enter", "newline"],
  ["Esc", "stop"],
  ["↑", "edit"],
  ["/", "write"],
  ["Alt N", "new"],
  ["Alt T", "think"],
  ["Alt S", "settings"],
  ["Alt 1 2 3", "views"],
  ["← → ↑ ↓", "tokens"],
  ["?", "list"],
];

function ShortcutsDialog() {
  return html`
    <${Modal} label=${t("shortcuts")}>
      <h2>${t("shortcuts")}</h2>
      <dl class="shortcuts">
        ${SHORTCUTS.map(([keys, name]) => html`<div key=${name}><dt>${keys.split(" ").map((one) => html`<kbd key=${one}>${one}</kbd>`)}</dt><dd>${t(`shortcut.${name}`)}</dd></div>`)}
      </dl>
      <div class="row end"><button type="button" autofocus onClick=${() => app.set({ dialog: null })}>${t("close")}</button></div>
    <//>
  `;
}

const DIALOGS = { key: KeyDialog, clear: ClearDialog, shortcuts: ShortcutsDialog };

export function Dialogs() {
  const name = useApp((state) => state.dialog);
  return name ? html`<${DIALOGS[name]} key=${name} />` : null;
}
