import { useEffect } from "preact/hooks";
import { startNew, stop, stopCompare, toggleThink } from "../actions.js";
import { app, setView, useApp } from "../state.js";
import { t } from "../words.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { Dialogs } from "./dialogs.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Tokenizer } from "./tokenizer.js";

const VIEWS = { chat: Chat, compare: Compare, tokens: Tokenizer };

function onKeyDown(event) {
  const writing = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (event.key === "Escape" && !event.isComposing) {
    if (app.get().drawer) closeDrawer();
    else if (app.get().view === "compare") stopCompare();
    else stop();
  } else if (event.altKey && !event.ctrlKey && !event.metaKey) {
    const acts = {
      KeyN: startNew,
      KeyT: toggleThink,
      KeyS: () => app.set((state) => ({ panel: !state.panel })),
      Digit1: () => setView("chat"),
      Digit2: () => setView("compare"),
      Digit3: () => setView("tokens"),
    };
    if (!acts[event.code]) return;
    event.preventDefault();
    acts[event.code]();
  } else if (!writing && event.key === "/") {
    event.preventDefault();
    document.querySelector(".composer textarea")?.focus();
  } else if (!writing && event.key === "?") {
    app.set({ dialog: "shortcuts" });
  }
}

function closeDrawer() {
  app.set({ drawer: false });
  document.querySelector("[aria-controls=sidebar]")?.focus();
}

function Header() {
  const view = useApp((state) => state.view);
  const panel = useApp((state) => state.panel);
  const drawer = useApp((state) => state.drawer);
  return html`
    <header class="top">
      <${IconButton} icon="menu" label=${t("menu")} class="only-narrow" aria-expanded=${drawer} aria-controls="sidebar" onClick=${() => app.set({ drawer: true })} />
      <nav class="views" aria-label=${t("views")}>
        ${Object.keys(VIEWS).map((name) => html`<a key=${name} href=${`#${name}`} aria-current=${view === name ? "page" : undefined} onClick=${(event) => (event.preventDefault(), setView(name))}>${t(`view.${name}`)}</a>`)}
      </nav>
      <${IconButton} icon="tune" label=${t("settings")} aria-expanded=${panel} data-opens="settings" onClick=${() => app.set({ panel: !panel })} />
    </header>
  `;
}

function Toast() {
  const toast = useApp((state) => state.toast);
  return html`<div class="toast-place" role="status">${toast && html`<div class="toast"><span>${toast.text}</span>${toast.action && html`<button type="button" onClick=${() => (app.set({ toast: null }), toast.act())}>${toast.action}</button>`}</div>`}</div>`;
}

function Spoken() {
  const spoken = useApp((state) => state.spoken);
  return html`<div class="visually-hidden" aria-live="polite" aria-relevant="additions" aria-atomic="false">${spoken.map(({ id, text }) => html`<p key=${id}>${text}</p>`)}</div>`;
}

export function App() {
  const view = useApp((state) => state.view);
  const language = useApp((state) => state.settings.language);
  const panel = useApp((state) => state.panel);
  const drawer = useApp((state) => state.drawer);
  useEffect(() => {
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, []);
  useEffect(() => {
    document.title = `${t(`view.${view}`)} · dunwu`;
  }, [view, language]);
  return html`
    <div class="page" key=${language}>
      <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), document.querySelector("#main textarea")?.focus())}>${t("skip")}</a>
      <${Sidebar} />
      ${drawer && html`<div class="shade" onClick=${closeDrawer}></div>`}
      <div class="stage">
        <${Header} />
        <main id="main"><${VIEWS[view]} /></main>
      </div>
      ${panel && html`<${Settings} />`}
      <${Dialogs} />
      <${Toast} />
      <${Spoken} />
    </div>
  `;
}
