import { useReducer } from "preact/hooks";
import { forgetKey } from "../actions.js";
import { key, TEXT_TOKENS } from "../api.js";
import { app, currentModel, DEFAULTS, facts, modeOf, setSettings, useApp } from "../state.js";
import { t } from "../words.js";
import { Choice } from "./choice.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";

const NUMBERS = [
  { name: "temperature", min: 0, max: 2, step: 0.05 },
  { name: "top_p", min: 0, max: 1, step: 0.01 },
  { name: "top_k", min: 0, step: 1 },
  { name: "min_p", min: 0, max: 1, step: 0.01 },
  { name: "max_tokens", min: 1, step: 1 },
  { name: "seed", step: 1 },
];

/** Whether whoever is asked in this view continues a text. */
const continuesText = (state) => (state.view === "compare" ? state.compare.panes.map((pane) => pane.model) : [currentModel(state)]).every((model) => modeOf(model, state) === "text");

function NumberField({ name, min, max, step }) {
  const known = useApp((state) => name === "max_tokens" && continuesText(state)) ? TEXT_TOKENS : null;
  const value = useApp((state) => state.settings.sampling[name]);
  const write = (event) => {
    const typed = event.target.valueAsNumber;
    const { sampling } = app.get().settings;
    setSettings({ sampling: { ...sampling, [name]: Number.isNaN(typed) ? undefined : typed } });
  };
  return html`
    <label class="field">
      <span>${t(`field.${name}`)}</span>
      <input type="number" inputmode="decimal" name=${name} min=${min} max=${max} step=${step} value=${value ?? ""} placeholder=${known ?? t("default")} onInput=${write} aria-describedby=${`help-${name}`} />
      <small id=${`help-${name}`}>${t(`field.${name}.help`)}</small>
    </label>
  `;
}

export function Settings() {
  const settings = useApp((state) => state.settings);
  const model = useApp((state) => facts(currentModel(state), state));
  const textOnly = useApp(continuesText);
  const [, rerender] = useReducer((n) => n + 1, 0);
  const close = () => {
    app.set({ panel: false });
    document.querySelector("[data-opens=settings]")?.focus();
  };
  return html`
    <aside class="panel" aria-label=${t("settings")} onKeyDown=${(event) => event.key === "Escape" && (event.stopPropagation(), close())}>
      <div class="panel-head"><h2>${t("settings")}</h2><${IconButton} icon="close" label=${t("close")} onClick=${close} /></div>
      <div class="panel-body">
        ${textOnly
          ? html`<div class="field tall"><span>${t("field.system")}</span><small>${t("field.system.none")}</small></div>`
          : html`<label class="field tall">
              <span>${t("field.system")}</span>
              <textarea name="system" rows="4" dir="auto" value=${settings.system} onInput=${(event) => setSettings({ system: event.target.value })} placeholder=${model.system_prompt || t("field.system.hint")}></textarea>
            </label>`}
        ${NUMBERS.map((field) => html`<${NumberField} key=${field.name} ...${field} />`)}
        <label class="field tall">
          <span>${t("field.stop")}</span>
          <textarea name="stop" rows="2" value=${settings.sampling.stop ?? ""} onInput=${(event) => setSettings({ sampling: { ...app.get().settings.sampling, stop: event.target.value || undefined } })}></textarea>
          <small>${t("field.stop.help")}</small>
        </label>
        <label class="field">
          <span>${t("field.alternatives")}</span>
          <input type="number" name="alternatives" min="0" max="20" step="1" value=${settings.alternatives} onInput=${(event) => Number.isInteger(event.target.valueAsNumber) && setSettings({ alternatives: Math.max(0, Math.min(20, event.target.valueAsNumber)) })} />
          <small>${t("field.alternatives.help")}</small>
        </label>
        <div class="field tall">
          <span id="label-mode">${t("field.mode")}</span>
          <${Choice} name="mode" labelledby="label-mode" options=${["auto", "chat", "text"].map((is) => ({ is, text: t(`mode.${is}`) }))} />
          <small>${t("field.mode.help")}</small>
        </div>
        ${key.read() && html`<div class="field"><span>${t("key")}</span><button type="button" onClick=${() => (forgetKey(), rerender())}>${t("key.forget")}</button></div>`}
        <button type="button" onClick=${() => setSettings({ sampling: {}, system: "", mode: DEFAULTS.mode, alternatives: DEFAULTS.alternatives })}>${t("reset")}</button>
      </div>
    </aside>
  `;
}
