import { useEffect, useRef, useState } from "preact/hooks";
import { exportAll, importFile, openConversation, removeConversation, startNew } from "../actions.js";
import { app, useApp } from "../state.js";
import { t } from "../words.js";
import { Choice } from "./choice.js";
import { classes, html } from "./html.js";
import { Icon, IconButton } from "./icons.js";

const DAY_MS = 86_400_000;
const SEARCH_FROM = 8;

function group(summaries) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const groups = [["today", []], ["week", []], ["older", []]];
  for (const one of summaries) groups[one.updated >= midnight ? 0 : one.updated >= midnight - 6 * DAY_MS ? 1 : 2][1].push(one);
  return groups.filter(([, members]) => members.length);
}

function History() {
  const summaries = useApp((state) => state.summaries);
  const current = useApp((state) => state.current);
  const running = useApp((state) => state.running);
  const [sought, setSought] = useState("");
  const found = summaries.filter((one) => one.title.toLowerCase().includes(sought.trim().toLowerCase()));
  return html`
    <nav class="history" aria-label=${t("history")}>
      ${summaries.length >= SEARCH_FROM && html`<input type="search" class="search" placeholder=${t("history.search")} aria-label=${t("history.search")} value=${sought} onInput=${(event) => setSought(event.target.value)} />`}
      ${summaries.length === 0 && html`<p class="note">${t("history.empty")}</p>`}
      ${group(found).map(
        ([name, members]) => html`
          <h3 key=${name}>${t(`history.${name}`)}</h3>
          <ul key=${`${name}-list`}>
            ${members.map(
              (one) => html`
                <li key=${one.id} class=${classes("past", one.id === current && "current")}>
                  <button type="button" class="past-open" aria-current=${one.id === current ? "page" : undefined} onClick=${() => openConversation(one.id)} title=${one.title}>
                    ${running[one.id] && html`<span class="dot" title=${t("speak.answering")}></span>`}<bdi>${one.title || t("history.untitled")}</bdi>
                  </button>
                  <${IconButton} icon="trash" label=${t("history.delete", { title: one.title })} onClick=${() => removeConversation(one.id)} />
                </li>
              `,
            )}
          </ul>
        `,
      )}
    </nav>
  `;
}

export function Sidebar() {
  const drawer = useApp((state) => state.drawer);
  const some = useApp((state) => state.summaries.length > 0);
  const file = useRef();
  const box = useRef();
  useEffect(() => {
    if (drawer) box.current.querySelector(".new").focus();
  }, [drawer]);
  return html`
    <aside ref=${box} aria-label=${t("menu")} class=${classes("sidebar", drawer && "open")} id="sidebar" onKeyDown=${(event) => event.key === "Escape" && drawer && (event.stopPropagation(), app.set({ drawer: false }))}>
      <div class="brand"><span class="seal" aria-hidden="true">顿悟</span><span>dunwu</span><span class="spring"></span><${IconButton} icon="close" label=${t("close")} class="only-narrow" onClick=${() => app.set({ drawer: false })} /></div>
      <button type="button" class="new" onClick=${startNew}><${Icon} name="plus" />${t("new")}</button>
      <${History} />
      <div class="sidebar-foot">
        <div class="row">
          <${IconButton} icon="out" label=${t("history.export")} disabled=${!some} onClick=${exportAll} />
          <${IconButton} icon="in" label=${t("history.import")} onClick=${() => file.current.click()} />
          <${IconButton} icon="trash" label=${t("history.clear")} disabled=${!some} onClick=${() => app.set({ dialog: "clear" })} />
          <${IconButton} icon="keys" label=${t("shortcuts")} onClick=${() => app.set({ dialog: "shortcuts" })} />
          <input ref=${file} type="file" accept="application/json,.json" class="visually-hidden" tabindex="-1" aria-label=${t("history.import")} onChange=${(event) => { if (event.target.files[0]) importFile(event.target.files[0]); event.target.value = ""; }} />
        </div>
        <div class="row">
          <${Choice} name="language" label=${t("language")} options=${[{ is: "auto", text: t("auto"), title: t("language.auto") }, { is: "en", text: "EN", label: "EN: English" }, { is: "zh", text: "中文" }]} />
          <${Choice} name="theme" label=${t("theme")} options=${[{ is: "auto", icon: "half", label: t("theme.auto") }, { is: "light", icon: "sun", label: t("theme.light") }, { is: "dark", icon: "moon", label: t("theme.dark") }]} />
        </div>
      </div>
    </aside>
  `;
}
